"""What acceleration costs and saves on the packaged demo checkpoint, and a whole edit beside the stock pipeline's.

    python benchmarks/demo.py                      # about three minutes on one core
    python benchmarks/demo.py --only whole

Real weights, so the likeness of two ways to edit is measured as well as their time. Times are CPU seconds of one
thread, taken in turns; only ratios mean anything elsewhere.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

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
from transformers import Qwen2_5_VLForConditionalGeneration

from retouch.catalog import checkpoint_named
from retouch.edit import Acceleration, EditSpec
from retouch.engine.pipelines import load_pipeline
from retouch.engine.pipelines.cache import TensorCache
from retouch.engine.pipelines.folders import PACKAGED_DEMO
from retouch.engine.pipelines.qwen_image_edit import QwenImageEdit
from retouch.engine.region import editable_tokens
from retouch.images import Pixels

SIDE = 256
EDITS = 30
DEMO = checkpoint_named("demo")


def photos() -> list[Pixels]:
    """The package's samples, whole and mirrored, square."""
    found = sorted(Path(str(files("retouch") / "samples")).glob("*.jpg"))
    squares = [np.asarray(Image.open(file).convert("RGB").resize((SIDE, SIDE))) for file in found]
    return [*squares, *(np.ascontiguousarray(square[:, ::-1]) for square in squares)]


def edit(pipeline: QwenImageEdit, spec: EditSpec, images: Sequence[Pixels]) -> tuple[Pixels, float]:
    """The image, and the CPU seconds of its denoise steps."""
    state = pipeline.prepare(spec, images)
    began = time.process_time()
    while not state.done:
        pipeline.denoise([state])
    took = time.process_time() - began
    return pipeline.decode(state), took


def psnr(one: Pixels, other: Pixels) -> float:
    error = np.square(one.astype(float) - other).mean()
    return float(10 * np.log10(255**2 / error)) if error else 99.0


def acceleration(pipeline: QwenImageEdit) -> None:
    """Every edit in each of the three ways, in turns."""
    assert DEMO.faster_steps is not None
    steps = dict(zip(Acceleration, (DEMO.steps, *DEMO.faster_steps), strict=True))
    seconds: dict[Acceleration, list[float]] = {way: [] for way in Acceleration}
    likeness: dict[Acceleration, list[float]] = {way: [] for way in Acceleration}
    chosen = itertools.islice(itertools.product(photos(), DEMO.knows), EDITS)
    for photo, prompt in chosen:
        images = [photo, 255 - photo] if "second" in prompt else [photo]
        made = {}
        for way in Acceleration:
            spec = EditSpec(prompt, SIDE, SIDE, seed=1, steps=steps[way], acceleration=way)
            made[way], took = edit(pipeline, spec, images)
            seconds[way].append(took)
            likeness[way].append(psnr(made[way], made[Acceleration.NONE]))
    print(f"  {EDITS} edits at {SIDE} x {SIDE}")
    for way in Acceleration:
        ratio = statistics.median(
            exact / faster for exact, faster in zip(seconds[Acceleration.NONE], seconds[way], strict=True)
        )
        print(f"    {way:8} {steps[way]} steps   {ratio:.2f} x   PSNR to none: least {min(likeness[way]):.1f} dB")


def masks(pipeline: QwenImageEdit, side: int = 512, steps: int = 5) -> None:
    """A mask over 15 % of the image, denoised everywhere and in its region alone, in turns."""
    edge = round(side * 0.15**0.5)
    mask = np.zeros((side, side), np.uint8)
    start = (side - edge) // 2
    mask[start : start + edge, start : start + edge] = 255
    region = editable_tokens(mask, side // 16, side // 16)
    assert region is not None
    photo = np.asarray(Image.fromarray(photos()[0]).resize((side, side)))
    everywhere, alone, likeness = [], [], []
    for prompt in [prompt for prompt in DEMO.knows if "second" not in prompt][::3]:
        spec = EditSpec(prompt, side, side, seed=1, steps=steps, acceleration=Acceleration.REGULAR)
        whole_image, took = edit(pipeline, spec, [photo])
        everywhere.append(took)
        masked, took = edit(pipeline, replace(spec, region=region), [photo])
        alone.append(took)
        likeness.append((psnr(whole_image[mask > 0], masked[mask > 0]), prompt))
    ratio = statistics.median(one / other for one, other in zip(everywhere, alone, strict=True))
    print(
        f"  a mask of 15 % at {side} px, {sum(region) / len(region):.0%} of the tokens with its margin, {steps} steps:"
    )
    print(f"    {ratio:.2f} x over {len(alone)} edits; PSNR within the mask:")
    for decibels, prompt in sorted(likeness):
        print(f"      {decibels:5.1f} dB  {prompt}")


def stock() -> QwenImageEditPlusPipeline:
    demo = PACKAGED_DEMO
    parts = load_pipeline(DEMO, device="cpu")
    assert isinstance(parts, QwenImageEdit)
    pipeline = QwenImageEditPlusPipeline(
        FlowMatchEulerDiscreteScheduler.from_pretrained(demo / "scheduler"),
        AutoencoderKLQwenImage.from_pretrained(demo / "vae", torch_dtype=torch.float32),
        Qwen2_5_VLForConditionalGeneration.from_pretrained(demo / "text_encoder", dtype=torch.float32),
        parts.text_encoder.tokenizer,
        parts.text_encoder.processor,
        QwenImageTransformer2DModel.from_pretrained(demo / "transformer", torch_dtype=torch.float32),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def whole(pipeline: QwenImageEdit, rounds: int) -> None:
    """From pixels to pixels at `none`, ours and the stock one in turns; nothing is remembered between rounds."""
    stock_module.VAE_IMAGE_SIZE = SIDE * SIDE
    stock_module.CONDITION_IMAGE_SIZE = DEMO.vision_area
    theirs, photo = stock(), photos()[0]
    for guidance in (1.0, 4.0):
        spec = EditSpec("make it grayscale", SIDE, SIDE, seed=1, steps=DEMO.steps, guidance_scale=guidance)

        def run_stock(spec: EditSpec = spec) -> None:
            theirs(
                image=[Image.fromarray(photo)],
                prompt=spec.prompt,
                negative_prompt=" " if spec.guidance_scale > 1 else None,
                true_cfg_scale=spec.guidance_scale,
                width=SIDE,
                height=SIDE,
                num_inference_steps=spec.steps,
                generator=torch.Generator().manual_seed(spec.seed),
            )

        def run_ours(spec: EditSpec = spec) -> None:
            forget(pipeline)
            edit(pipeline, spec, [photo])

        one, other = in_turns(run_stock, run_ours, rounds)
        words = "on" if guidance > 1 else "off"
        print(f"  a whole edit, guidance {words}: stock {one:.2f} s, ours {other:.2f} s, {one / other:.2f} x")


def forget(pipeline: QwenImageEdit) -> None:
    """Empty the caches of encodings."""
    for owner, name in ((pipeline, "_references"), (pipeline.text_encoder, "_cache")):
        setattr(owner, name, TensorCache(getattr(owner, name).max_bytes))


def in_turns(first: Callable[[], None], second: Callable[[], None], rounds: int) -> tuple[float, float]:
    """Median CPU seconds of both; the first round does not count."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for kept, work in zip(times, (first, second), strict=True):
            began = time.process_time()
            work()
            kept.append(time.process_time() - began)
    return statistics.median(times[0][1:]), statistics.median(times[1][1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=("acceleration", "masks", "whole"))
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    diffusers.utils.logging.set_verbosity_error()
    pipeline = load_pipeline(DEMO, device="cpu")
    assert isinstance(pipeline, QwenImageEdit)
    if arguments.only in (None, "acceleration"):
        acceleration(pipeline)
    if arguments.only in (None, "masks"):
        masks(pipeline)
    if arguments.only in (None, "whole"):
        whole(pipeline, arguments.rounds)


if __name__ == "__main__":
    main()
