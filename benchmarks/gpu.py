"""Everything about the full-size 2511 network on one GPU, in stages that each end within nine minutes.

    python benchmarks/gpu.py                  # the next stage that has no result yet; run it again until it says done
    python benchmarks/gpu.py --stage parity   # one stage again
    python benchmarks/gpu.py --report         # the table of what there is
    python benchmarks/gpu.py --size small     # the same on a CPU with a small network, to try this script

Weights are random and made in bfloat16 on the device, which changes no time: no download. Results are kept in a file,
so a machine that is lent in short turns can be used. What is compared is measured in one stage, in turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

from engine import SCALES, Bench, median_of  # the benchmark beside this file
from retouch.edit import Acceleration, EditSpec
from retouch.engine.pipelines import loading
from retouch.engine.pipelines.modulation import Modulation, modulation_layers
from retouch.engine.pipelines.offload import OffloadedBlocks
from retouch.engine.pipelines.precision import compress
from retouch.engine.region import editable_tokens

Result = dict[str, Any]

STEPS = 40
MEASURED_STEPS = 6
"""Of the exact forms, whose steps all take the same."""


def parity(bench: Bench) -> Result:
    """The largest difference of our forward to the stock one, relative to its size, with guidance."""
    state = bench.ours.prepare(bench.spec(2, 4.0), [bench.image])
    differences = []
    with torch.inference_mode():
        ours = bench.ours.network.velocities(state, state.latents, state.sigmas[0])
        stock = bench.plain.velocities(state, state.latents, state.sigmas[0])
        for one, other in zip(ours, stock, strict=True):
            assert one is not None
            assert other is not None
            differences.append(((one.float() - other.float()).norm() / other.float().norm()).item())
    return {"relative difference": max(differences)}


def floor(bench: Bench) -> Result:
    """Products per second of a large bfloat16 product, and what a step at 1 MP would take at that rate."""
    side = 8192 if bench.device.type == "cuda" else 512
    one, other = (torch.randn(side, side, device=bench.device, dtype=bench.ours.dtype) for _ in range(2))
    seconds = repeated(bench, lambda: one @ other, 20)
    rate = 2 * side**3 / seconds
    return {"TFLOP/s": rate / 1e12, "guided step ms": forward_flops(bench) * 2 / rate * 1e3}


def forward_flops(bench: Bench) -> float:
    """Of one branch with one reference: 24 x width^2 a token and block, and 4 x tokens^2 x width a block."""
    network = bench.ours.network
    tokens = 2 * (bench.scale.side // 16) ** 2 + bench.scale.text_tokens
    return len(network.blocks) * (24 * network.width**2 * tokens + 4 * tokens**2 * network.width)


def beside(bench: Bench) -> Result:
    """A step of the stock pipeline and of ours, in turns, without and with guidance."""
    found: Result = {}
    for guidance in (1.0, 4.0):
        theirs, own = [], []
        for _ in range(3):
            theirs.append(step_ms(bench.stock_times, bench, guidance))
            own.append(step_ms(bench.our_times, bench, guidance))
        found[f"stock step ms, guidance {guidance:g}"] = statistics.median(theirs)
        found[f"our step ms, guidance {guidance:g}"] = statistics.median(own)
    return found


def edges(bench: Bench) -> Result:
    """What is before the first step and after the last, without the text encoder."""
    spec = bench.spec(2, 1.0)
    times = [bench.our_times(spec) for _ in range(4)][1:]
    return {"prepare ms": median_of(times, 0) * 1e3, "decode ms": median_of(times, 2) * 1e3}


def tables(bench: Bench) -> Result:
    """The table of modulation, with its weights on the device and streamed from the host."""
    state = bench.ours.prepare(bench.spec(STEPS, 1.0), [bench.image])
    network = bench.ours.network.transformer
    with torch.inference_mode():
        resident = repeated(bench, lambda: Modulation(network).table(state.sigmas, state.latents), 2)
        for layer in modulation_layers(network):
            layer.to("cpu")
        streamed = repeated(bench, lambda: Modulation(network).table(state.sigmas, state.latents), 2)
    return {"resident s": resident, "streamed s": streamed}


def acceleration(bench: Bench) -> Result:
    """Whole denoise parts, of random weights: the share of reused steps says nothing of a trained network."""
    return {str(way): denoise_s(bench, replace(bench.spec(STEPS, 4.0), acceleration=way)) for way in Acceleration}


def masks(bench: Bench) -> Result:
    """A mask of 15 %, in half of the steps of `acceleration`; the warm-up is a fifth of them."""
    side = bench.scale.side
    mask = np.zeros((side, side), np.uint8)
    mask[: round(side * 0.15**0.5), : round(side * 0.15**0.5)] = 255
    region = editable_tokens(mask, side // 16, side // 16)
    spec = replace(bench.spec(STEPS // 2, 4.0), acceleration=Acceleration.REGULAR)
    return {"everywhere s": denoise_s(bench, spec), "masked s": denoise_s(bench, replace(spec, region=region))}


def eight_bits(bench: Bench) -> Result:
    """A step with weights in fp8, and the memory they hold."""
    network = bench.ours.network.transformer
    compress(network.transformer_blocks, "fp8", keep=frozenset(modulation_layers(network)))
    return {"step ms, guidance 4": step_ms(bench.our_times, bench, 4.0), **memory(bench)}


def placed(bench: Bench) -> Result:
    """Memory with the weights of the modulation in the host's."""
    if bench.device.type != "cuda":
        return {}
    network = bench.ours.network.transformer
    for layer in modulation_layers(network):
        layer.to("cpu")
    loading.place(network, bench.device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(bench.device)
    began = time.perf_counter()
    bench.our_times(bench.spec(2, 4.0))
    return {"first edit of two steps s": time.perf_counter() - began, **memory(bench)}


def swapped(bench: Bench) -> Result:
    """A step with the blocks in the host's memory, brought one ahead, and what the device holds then."""
    if bench.device.type != "cuda":
        return {}
    network = bench.ours.network
    for layer in modulation_layers(network.transformer):
        layer.to("cpu")
    network.offloaded = OffloadedBlocks(network.transformer.transformer_blocks, bench.device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(bench.device)
    return {"step ms, guidance 4": step_ms(bench.our_times, bench, 4.0), **memory(bench)}


STAGES: dict[str, Callable[[Bench], Result]] = {
    stage.__name__: stage
    for stage in (parity, floor, beside, edges, tables, acceleration, masks, placed, swapped, eight_bits)
}


def memory(bench: Bench) -> Result:
    if bench.device.type != "cuda":
        return {}
    return {
        "held GB": torch.cuda.memory_allocated(bench.device) / 1e9,
        "peak GB": torch.cuda.max_memory_allocated(bench.device) / 1e9,
    }


def step_ms(times: Callable[[EditSpec], tuple[float, list[float], float]], bench: Bench, guidance: float) -> float:
    times(bench.spec(2, guidance))
    return statistics.median(times(bench.spec(MEASURED_STEPS, guidance))[1]) * 1e3


def denoise_s(bench: Bench, spec: EditSpec) -> float:
    return sum(bench.our_times(spec)[1])


def repeated(bench: Bench, work: Callable[[], object], rounds: int) -> float:
    work()
    began = bench.settle()
    for _ in range(rounds):
        work()
    return (bench.settle() - began) / rounds


def report(results: dict[str, Result]) -> None:
    print("| stage | figure | value |\n|---|---|---|")
    for stage, figures in results.items():
        for name, value in figures.items():
            print(
                f"| {stage} | {name} | {value:.4g} |" if isinstance(value, float) else f"| {stage} | {name} | {value} |"
            )
    if "beside" in results:
        theirs, own = (results["beside"][f"{whose} step ms, guidance 4"] for whose in ("stock", "our"))
        print(f"\nOurs to diffusers, guided: {theirs / own:.2f} x (goal 1.4)")
        if "floor" in results:
            print(f"Share of the floor: {results['floor']['guided step ms'] / own:.0%} (goal 80 %)")
    missing = [name for name in STAGES if name not in results]
    print(f"Not measured: {', '.join(missing)}" if missing else "done")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stage", choices=STAGES)
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--size", choices=SCALES, default="full")
    parser.add_argument("--results", type=Path, default=Path("gpu-results.json"))
    arguments = parser.parse_args()
    results: dict[str, Result] = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    stage = arguments.stage or next((name for name in STAGES if name not in results), None)
    if arguments.report or stage is None:
        report(results)
        return
    cuda = torch.cuda.is_available()
    if arguments.size == "full" and not cuda:
        sys.exit("The full-size network needs a GPU; --size small runs here.")
    diffusers.utils.logging.set_verbosity_error()
    device = torch.device("cuda" if cuda else "cpu")
    bench = Bench(SCALES[arguments.size], device, torch.bfloat16 if cuda else torch.float32)
    results[stage] = STAGES[stage](bench)
    if cuda:
        results["device"] = {"name": torch.cuda.get_device_name(device), "torch": torch.__version__}
    arguments.results.write_text(json.dumps(results, indent=2))
    report({stage: results[stage]})


if __name__ == "__main__":
    main()
