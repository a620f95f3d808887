"""What share of its time the device waits for an edit's images while edits are in line, with staging beside the steps
and, as it was, one edit after the other.

    python benchmarks/device_idle.py [--edits 16] [--steps 4] [--side 192] [--photo 3000]

The demo on a CPU with one torch thread, one worker, SQLite; every edit has a JPEG of its own, of `photo` pixels a side,
which comes over a link that takes 50 ms. All are in line before the worker begins.
"""

from __future__ import annotations

import argparse
import io
import logging
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from retouch.catalog import checkpoint_named
from retouch.edit import ImageInput, SizeRequest
from retouch.engine.pipelines import load_pipeline
from retouch.worker.job_runner import BUSY, WAITED
from retouch.worker.priority import prefer_short_turns
from retouch.worker.settings import HeartbeatSettings, WorkerSettings
from tests.harness import Deployment

LINK_S, BEAT_S = 0.05, 0.1


def photo(side: int, number: int) -> bytes:
    small = np.random.default_rng(number).integers(0, 256, (side // 16, side // 16, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).save(out, "JPEG", quality=92)
    return out.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, default=16)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--side", type=int, default=192)
    parser.add_argument("--photo", type=int, default=3000)
    options = parser.parse_args()
    pipeline = load_pipeline(checkpoint_named("demo"), device="cpu")
    import structlog
    import torch

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    torch.set_num_threads(1)
    prefer_short_turns()
    photos = {str(number): photo(options.photo, number) for number in range(options.edits)}

    def read(image: ImageInput) -> bytes:
        time.sleep(LINK_S)
        return photos[(image.blob or "").rpartition("/")[2]]

    for name, most in (("one after the other", 1), ("leased two seconds ahead", 64)) * 2:
        settings = WorkerSettings(most_leased=most, heartbeat=HeartbeatSettings(beat_s=BEAT_S))
        with tempfile.TemporaryDirectory() as folder, Deployment(Path(folder), model="demo") as deployment:
            size = SizeRequest(width=options.side, height=options.side)
            jobs = [
                deployment.submit(images=(ImageInput(blob=f"uploads/{number}"),), steps=options.steps, size=size)
                for number in photos
            ]
            with deployment.worker(pipeline, settings=settings, read=read):
                began = time.monotonic()
                for job in jobs:
                    deployment.finished(job.id)
                took = time.monotonic() - began
                time.sleep(3 * BEAT_S)
                [worker] = deployment.service.statistics().workers
                waited, busy = worker.seconds[WAITED], worker.seconds[BUSY]
                share = 100 * waited / (waited + busy)
                print(f"{name:26} {took:5.1f} s, the device waited {waited:5.2f} s of it ({share:.1f} %)")


if __name__ == "__main__":
    main()
