"""Photos of 12 megapixels that arrive while an edit runs: what its steps feel, with the photos' host work on a staging
thread and, as it was, in the engine's own thread.

    python benchmarks/staging.py [--side 128] [--steps 13] [--rounds 3]

The demo on a CPU with one torch thread. Each round runs one edit alone, one while photos are staged beside it, and one
while the same is done in the engine's thread between its steps; rounds take turns, so a busy machine hits all alike. A
gap is the time between the ends of two steps of the running edit. On a CPU the staging thread needs a core of its own,
which a GPU's host has.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch

from retouch.catalog import checkpoint_named
from retouch.edit import EditSpec
from retouch.engine.engine import Engine
from retouch.engine.pipelines import load_pipeline

PHOTO = (3000, 4000, 3)
EVERY = 4


class Bench:
    def __init__(self, side: int, steps: int) -> None:
        torch.set_num_threads(1)
        self.pipeline = load_pipeline(checkpoint_named("demo"), device="cpu")
        self.photo = np.random.default_rng(0).integers(0, 256, PHOTO, dtype=np.uint8)
        self.small = np.zeros((side, side, 3), np.uint8)
        self.spec = EditSpec("make it grayscale", side, side, seed=1, steps=steps)

    def gaps(self, beside: Callable[[], None]) -> list[float]:
        """Seconds between the ends of an edit's steps; `beside` is called after every EVERY-th."""
        engine = Engine(self.pipeline)
        engine.add(self.spec, [self.small])
        ends: list[float] = []
        while not (report := engine.step()).finished:
            if report.progressed:
                ends.append(time.perf_counter())
                if len(ends) % EVERY == 0:
                    beside()
        return [later - earlier for earlier, later in pairwise(ends)]

    def stage(self) -> None:
        self.pipeline.stage(self.spec, [self.photo])

    def stage_on_a_thread(self) -> None:
        threading.Thread(target=self.stage).start()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--steps", type=int, default=13)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    bench = Bench(options.side, options.steps)
    ways = {
        "alone": lambda: None,
        "photos staged beside it": bench.stage_on_a_thread,
        "photos in the engine's thread": bench.stage,
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    bench.gaps(ways["alone"])
    for _ in range(options.rounds):
        for name, beside in ways.items():
            found[name] += bench.gaps(beside)
    alone = statistics.mean(found["alone"])
    for name, seconds in found.items():
        p50, mean, longest = (1000 * take(seconds) for take in (statistics.median, statistics.mean, max))
        print(f"{name:32} gap p50 {p50:5.0f} mean {mean:5.0f} ({mean / 1000 / alone:.2f}) longest {longest:5.0f} ms")


if __name__ == "__main__":
    main()
