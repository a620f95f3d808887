"""How a worker's memory grows over edits of random sizes, and what the bound of oneDNN's primitive cache costs.

    python benchmarks/memory_soak.py                          # the bound that the product sets, 300 sizes
    python benchmarks/memory_soak.py --capacities 1024 64 16 4 1 --edits 75

Each capacity runs in a process of its own, because oneDNN reads its bound once. Printed: resident memory after every
so many edits with the slope of the second half; and seconds of CPU for an edit of a size seen just before and of a
size never seen. Two steps an edit with the packaged demo; the sizes are the same in every run.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from retouch.catalog import checkpoint_named
from retouch.cli.process import KERNEL_CACHE_VARIABLE, bound_kernel_cache, keep_freed_memory
from retouch.edit import EditSpec
from retouch.engine.engine import Engine
from retouch.engine.pipelines import load_pipeline

STEPS = 2
SIDES = range(128, 513, 16)
KEPT_MEGABYTES = 256  # as `retouch worker` keeps


def resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def run_edits(edits: int, every: int) -> None:
    """One process: the series on standard output."""
    bound_kernel_cache()
    keep_freed_memory(KEPT_MEGABYTES)
    engine = Engine(load_pipeline(checkpoint_named("demo"), device="cpu"))
    dice = random.Random(11)
    series, again, new = [resident_megabytes()], [], []
    for number in range(1, edits + 1):
        width, height = dice.choice(SIDES), dice.choice(SIDES)
        photo = np.full((height, width, 3), number % 256, dtype=np.uint8)
        for seconds in (new, again) if number % every == 0 else (new,):
            started = time.process_time()
            engine.add(EditSpec(f"make it grayscale {number}", width, height, seed=1, steps=STEPS), (photo,))
            while engine.busy:
                engine.step()
            seconds.append((time.process_time() - started) / (width * height) * 1e6)
        if number % every == 0:
            series.append(resident_megabytes())
            print(f"{number} edits: {series[-1]:.0f} MB", flush=True)
    later = series[len(series) // 2 :]
    slope = float(np.polyfit(np.arange(len(later)) * every, later, 1)[0]) * 100
    print("series, MB:", " ".join(f"{value:.0f}" for value in series))
    print(f"slope of the second half: {slope:+.1f} MB in 100 edits")
    fresh, repeated = statistics.median(new), statistics.median(again)
    print(f"CPU seconds a megapixel: new sizes {fresh:.2f}, repeated sizes {repeated:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, default=300)
    parser.add_argument("--every", type=int, default=15, help="edits between two looks at the memory")
    parser.add_argument(
        "--capacities", type=int, nargs="*", default=[], help="bounds to compare; default: the product's"
    )
    arguments = parser.parse_args()
    if not arguments.capacities:
        run_edits(arguments.edits, arguments.every)
        return
    for capacity in arguments.capacities:
        print(f"--- {capacity} primitives", flush=True)
        command = [sys.executable, __file__, "--edits", str(arguments.edits), "--every", str(arguments.every)]
        subprocess.run(command, check=True, env=os.environ | {KERNEL_CACHE_VARIABLE: str(capacity)})


if __name__ == "__main__":
    main()
