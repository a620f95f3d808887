"""Photos of 12 megapixels that arrive while an edit runs: what its steps feel.

    python benchmarks/staging.py [--side 128] [--steps 25] [--rounds 3] [--threads 1]

The demo on a CPU. Each round runs one edit alone, one while photos are decoded and staged beside it as the worker does
(a pool of threads, at their lower priority), and one while the same is done in the engine's thread between its steps;
rounds take turns, so a busy machine hits all alike. A photo comes at every fourth step, far more often than people send
them. A gap is the time between the ends of two steps of the running edit. With as many torch threads as cores, staging
takes its time from the steps.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from retouch.catalog import checkpoint_named
from retouch.cli.process import bound_kernel_cache, keep_freed_memory
from retouch.cli.worker import KEPT_MEGABYTES
from retouch.edit import Acceleration, EditRequest, EditSpec, ImageInput
from retouch.engine.engine import Engine
from retouch.engine.pipelines import load_pipeline
from retouch.samples import __path__ as samples
from retouch.worker.priority import prefer_short_turns, work_in_the_background
from retouch.worker.staging import stage_in

SIDES = (4000, 3000)
EVERY = 4


def photo(file_format: str) -> bytes:
    image = Image.open(Path(next(iter(samples))) / "cat.jpg").resize(SIDES, Image.Resampling.BICUBIC)
    out = io.BytesIO()
    image.save(out, file_format, **({"quality": 92} if file_format == "JPEG" else {"compress_level": 1}))
    return out.getvalue()


class Bench:
    def __init__(self, side: int, steps: int, file_format: str) -> None:
        self.demo = checkpoint_named("demo")
        self.pipeline = load_pipeline(self.demo, device="cpu")
        self.file = photo(file_format)
        self.spec = EditSpec("make it grayscale", side, side, seed=1, steps=steps)
        self.small = np.zeros((side, side, 3), np.uint8)
        self.request = EditRequest(
            "demo",
            self.spec.prompt,
            (ImageInput(blob="photo"),),
            seed=1,
            steps=steps,
            guidance_scale=1.0,
            acceleration=Acceleration.NONE,
        )
        self.pool = ThreadPoolExecutor(2, initializer=work_in_the_background)
        self.cpu_s: list[float] = []

    def gaps(self, beside: Callable[[], Future[None] | None]) -> list[float]:
        """Seconds between the ends of an edit's steps; `beside` is called after every EVERY-th."""
        engine = Engine(self.pipeline)
        engine.add(self.spec, [self.small])
        ends: list[float] = []
        started = []
        while not (report := engine.step()).finished:
            if report.progressed:
                ends.append(time.perf_counter())
                if len(ends) % EVERY == 0:
                    started.append(beside())
        for future in started:
            if future is not None:
                future.result()
        return [later - earlier for earlier, later in pairwise(ends)]

    def stage(self) -> None:
        began = time.thread_time()
        staged = stage_in(self.request, self.demo, lambda _: self.file)
        self.pipeline.stage(self.spec, staged.images)
        self.cpu_s.append(time.thread_time() - began)

    def stage_on_a_thread(self) -> Future[None]:
        return self.pool.submit(self.stage)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--format", choices=("JPEG", "PNG"), default="JPEG")
    options = parser.parse_args()
    keep_freed_memory(KEPT_MEGABYTES)
    bound_kernel_cache()
    prefer_short_turns()
    bench = Bench(options.side, options.steps, options.format)
    import torch

    torch.set_num_threads(options.threads)
    ways: dict[str, Callable[[], Future[None] | None]] = {
        "alone": lambda: None,
        "photos staged beside it": bench.stage_on_a_thread,
        "photos in the engine's thread": bench.stage,
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    bench.gaps(ways["alone"])
    for _ in range(options.rounds):
        for name, beside in ways.items():
            found[name] += bench.gaps(beside)
    alone, typical = statistics.mean(found["alone"]), statistics.median(found["alone"])
    for name, seconds in found.items():
        p50, mean, longest = (take(seconds) for take in (statistics.median, statistics.mean, max))
        print(
            f"{name:32} gap p50 {1000 * p50:5.1f} ({p50 / typical:.2f}) mean {1000 * mean:5.1f} ({mean / alone:.2f}) "
            f"longest {1000 * longest:5.0f} ms"
        )
    print(f"one photo: {1000 * statistics.median(bench.cpu_s):.0f} ms of a core")


if __name__ == "__main__":
    main()
