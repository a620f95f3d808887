"""Our denoise loop beside the stock diffusers pipeline, step by step in turns, over the same random weights.

    python benchmarks/engine.py                    # on a CPU: a small network, one 256 x 256 reference
    python benchmarks/engine.py --size full        # on a GPU: the 20-billion-parameter network, 1 megapixel

No download: weights are random, which changes no time. The prompt's states are random as well, so the text
encoder is not measured. Printed as ratios of ours to the stock one; absolute times are of the machine at hand.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImageEditPlusPipeline,
    QwenImageTransformer2DModel,
)
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as stock_module
from PIL import Image

from retouch.catalog import checkpoint_named
from retouch.edit import EditSpec
from retouch.engine.engine import Engine
from retouch.engine.pipelines.denoising import FastNetwork, PlainNetwork
from retouch.engine.pipelines.null import NullPipeline
from retouch.engine.pipelines.qwen_image_edit import PLUS, QwenImageEdit
from retouch.engine.pipelines.vae import FoldedVae
from retouch.engine.sampler import NoiseSchedule

SCHEDULE = {
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 0.9,
    "base_image_seq_len": 256,
    "max_image_seq_len": 8192,
    "shift_terminal": 0.02,
}


@dataclass(frozen=True)
class Scale:
    """A network and the edit it is measured with. text_tokens: of the prompt with its images."""

    transformer: dict[str, Any]
    vae: dict[str, Any]
    side: int
    text_width: int
    text_tokens: int


SCALES = {
    "small": Scale(
        {"num_layers": 5, "num_attention_heads": 9, "attention_head_dim": 32, "axes_dims_rope": (8, 12, 12)}
        | {"joint_attention_dim": 128, "zero_cond_t": True},
        {"base_dim": 16, "num_res_blocks": 1},
        side=256,
        text_width=128,
        text_tokens=30,
    ),
    "full": Scale({"zero_cond_t": True}, {}, side=1024, text_width=3584, text_tokens=270),
}


class RandomStates:
    """Stands where the text encoder does: the same random states for every prompt."""

    def __init__(self, states: torch.Tensor) -> None:
        self.states = states

    def check(self, prompt: str, field: str) -> None:
        pass

    def stage(self, prompt: str, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        return {}

    def encode(self, prompt: str, images: Sequence[Image.Image], key: tuple[str, ...], staged: Any) -> torch.Tensor:
        return self.states


def random_network(make: Callable[[], Any], device: torch.device, dtype: torch.dtype) -> Any:
    """A network of random weights, made in its own dtype on the device: in float32 the large one has 82 GB."""
    with torch.device("meta"):
        network = make().to(dtype)
    network = network.to_empty(device=device).eval().requires_grad_(requires_grad=False)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif parameter.dim() == 2 or parameter.numel() > 10_000:
            parameter.normal_(std=0.02)
        else:
            parameter.fill_(1.0)
    if hasattr(network, "pos_embed"):  # tables of numbers, no buffers
        rope = network.pos_embed
        network.pos_embed = type(rope)(theta=rope.theta, axes_dim=list(rope.axes_dim), scale_rope=rope.scale_rope)
    return network


class Bench:
    """Both pipelines over one set of random weights on one device."""

    def __init__(self, scale: Scale, device: torch.device, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.scale, self.device = scale, device
        transformer = random_network(lambda: QwenImageTransformer2DModel(**scale.transformer), device, dtype)
        vae, folded = (random_network(lambda: AutoencoderKLQwenImage(**scale.vae), device, dtype) for _ in range(2))
        folded.load_state_dict(vae.state_dict())
        self.states = torch.randn(1, scale.text_tokens, scale.text_width, device=device).to(dtype)
        stock_module.VAE_IMAGE_SIZE = scale.side**2
        self.stock = QwenImageEditPlusPipeline(
            FlowMatchEulerDiscreteScheduler(**SCHEDULE), vae, None, None, None, transformer
        )
        self.stock.set_progress_bar_config(disable=True)
        self.ours = QwenImageEdit(
            replace(
                checkpoint_named("qwen-image-edit-2511"),
                reference_area=scale.side**2,
                sizes=checkpoint_named("demo").sizes,
            ),
            PLUS,
            text_encoder=RandomStates(self.states),
            vae=FoldedVae(folded),
            network=FastNetwork(transformer),
            schedule=NoiseSchedule.from_config(SCHEDULE),
            preview_map=None,
            latent_channels=vae.config.z_dim,
            device=device,
            dtype=dtype,
        )
        self.plain = PlainNetwork(transformer)
        noise = np.random.default_rng(0).integers(0, 256, (scale.side, scale.side, 3), dtype=np.uint8)
        self.image = noise

    def spec(self, steps: int, guidance: float, *, side: int | None = None) -> EditSpec:
        side = side or self.scale.side
        return EditSpec("make it green", side, side, seed=1, steps=steps, guidance_scale=guidance)

    def settle(self) -> float:
        """Now, when the device has done all it was given; on a CPU in seconds of CPU time, which others cannot slow."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        return time.process_time()

    def stock_times(self, spec: EditSpec) -> tuple[float, list[float], float]:
        """Seconds before the first step, of each step, and after the last one."""
        marks: list[float] = []

        def mark(*_: object) -> dict[str, object]:
            marks.append(self.settle())
            return {}

        guided = {"negative_prompt_embeds": self.states, "true_cfg_scale": spec.guidance_scale}
        first: list[float] = []
        hook = self.stock.transformer.register_forward_pre_hook(
            lambda *_: None if first else first.append(self.settle())
        )
        started = self.settle()
        self.stock(
            image=[Image.fromarray(self.image)],
            prompt_embeds=self.states,
            **(guided if spec.guidance_scale > 1 else {"true_cfg_scale": 1.0}),
            width=spec.width,
            height=spec.height,
            num_inference_steps=spec.steps,
            generator=torch.Generator().manual_seed(spec.seed),
            callback_on_step_end=mark,
            callback_on_step_end_tensor_inputs=[],
        )
        ended = self.settle()
        hook.remove()
        steps = [later - earlier for earlier, later in itertools.pairwise([first[0], *marks])]
        return first[0] - started, steps, ended - marks[-1]

    def our_times(self, spec: EditSpec) -> tuple[float, list[float], float]:
        self.ours._references = type(self.ours._references)(0)  # noqa: SLF001 - encode again, as the stock one does
        started = self.settle()
        state = self.ours.prepare(spec, [self.image])
        marks = [self.settle()]
        while not state.done:
            self.ours.denoise([state])
            marks.append(self.settle())
        self.ours.decode(state)
        steps = [later - earlier for earlier, later in itertools.pairwise(marks)]
        return marks[0] - started, steps, self.settle() - marks[-1]


def compare(bench: Bench, spec: EditSpec, rounds: int) -> None:
    """Both in turns, the first round thrown away; medians."""
    theirs, ours = [], []
    for _ in range(rounds + 1):
        theirs.append(bench.stock_times(spec))
        ours.append(bench.our_times(spec))
    theirs, ours = theirs[1:], ours[1:]
    print(f"  guidance {'on' if spec.guidance_scale > 1 else 'off'}, one reference, {spec.steps} steps:")
    for name, index in (("before the first step", 0), ("a step", 1), ("after the last step", 2)):
        stock, own = (median_of(times, index) for times in (theirs, ours))
        print(f"    {name:22} stock {stock * 1e3:9.1f} ms   ours {own * 1e3:9.1f} ms   ratio {own / stock:.3f}")


def median_of(times: list[tuple[float, list[float], float]], index: int) -> float:
    values: list[float] = []
    for entry in times:
        value = entry[index]
        values += value if isinstance(value, list) else [value]
    return statistics.median(values)


def interleaving(bench: Bench, steps: int, rounds: int) -> None:
    """Four edits of two sizes one after the other, and taking turns: the same work, so the ratio is the cost."""
    sides = (bench.scale.side, bench.scale.side // 2) * 2
    specs = [replace(bench.spec(steps, 1.0, side=side), seed=seed) for seed, side in enumerate(sides)]

    def one_by_one() -> None:
        for spec in specs:
            engine = Engine(bench.ours)
            engine.add(spec, [bench.image])
            while engine.busy:
                engine.step()

    def in_turns() -> None:
        engine = Engine(bench.ours)
        for spec in specs:
            engine.add(spec, [bench.image])
        while engine.busy:
            engine.step()

    one, turns = timed_in_turns(bench, one_by_one, in_turns, rounds)
    print(f"  four edits, one by one {one:.2f} s, in turns {turns:.2f} s, ratio {turns / one:.3f}")


def timed_in_turns(
    bench: Bench, first: Callable[[], None], second: Callable[[], None], rounds: int
) -> tuple[float, float]:
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for kept, work in zip(times, (first, second), strict=True):
            started = bench.settle()
            work()
            kept.append(bench.settle() - started)
    return statistics.median(times[0][1:]), statistics.median(times[1][1:])


def tick_overhead(ticks: int = 20_000) -> None:
    """What the loop itself costs, with eight edits that compute nothing."""
    engine = Engine(NullPipeline())
    image = np.zeros((32, 32, 3), np.uint8)
    for seed in range(8):
        engine.add(EditSpec("x", 32 + 16 * seed, 32, seed=seed, steps=ticks), [image])
    started = time.process_time()
    for _ in range(ticks):
        engine.step()
    print(f"  one tick of the loop with eight edits: {(time.process_time() - started) / ticks * 1e6:.1f} µs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", choices=SCALES, default="full" if torch.cuda.is_available() else "small")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; the default is torch's own")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    diffusers.utils.logging.set_verbosity_error()
    device = torch.device(arguments.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"$ python {' '.join(sys.argv)}\n  {name}, torch {torch.__version__}, size {arguments.size}")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    bench = Bench(SCALES[arguments.size], device, dtype)
    for guidance in (1.0, 4.0):
        compare(bench, bench.spec(arguments.steps, guidance), arguments.rounds)
    interleaving(bench, arguments.steps, arguments.rounds)
    tick_overhead()
    if device.type == "cuda":
        print(f"  peak memory {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB")


if __name__ == "__main__":
    main()
