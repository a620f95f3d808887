"""What the packaged safety checker costs, alone and in edits, and what it says of harmless photos.

    python benchmarks/safety.py [--edits 12] [--burst 8] [--photos FOLDER …]

Edits are those of the demo checkpoint on the CPU at 256 x 256, run by two workers on one loaded model that take turns:
one checks, the other does not. Every edit has an input and a seed of its own, so that no verdict is remembered.
`--photos` scores every image in the folders and the demo's answers on them; the sample images of scikit-image and
scikit-learn lie in `skimage/data` and `sklearn/datasets/images` of their wheels (pip download --no-deps …).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog

sys.path.insert(0, str(Path(__file__).parent.parent))

from retouch import images, sizes
from retouch.catalog import checkpoint_named
from retouch.edit import EditSpec
from retouch.engine.engine import Engine
from retouch.engine.open_nsfw import OpenNsfw
from retouch.engine.pipeline import Pipeline
from retouch.engine.pipelines import load_pipeline
from retouch.engine.safety import ImageChecker
from retouch.errors import InvalidImage
from retouch.images import Pixels
from retouch.worker.policy import JobPolicy
from retouch.worker.staging import Moderation
from tests.harness import Deployment

SIZES = {"256 x 256": (256, 256), "1 MP": (1024, 1024), "12 MP": (3000, 4000)}
SIZE = sizes.parse(size="256x256")
PROMPTS = ("make it warmer", "make it grayscale", "blur the image")

MEMORY_PROGRAM = """
import numpy as np, psutil, time
import retouch.images, PIL.JpegImagePlugin
image = np.zeros((512, 512, 3), np.uint8)
before, began = psutil.Process().memory_info().rss, time.perf_counter()
from retouch.engine.open_nsfw import OpenNsfw
classifier = OpenNsfw()
loaded = time.perf_counter() - began
classifier.score(image)
print(loaded, (psutil.Process().memory_info().rss - before) / 2**20)
"""


def photo(seed: int, size: tuple[int, int]) -> Pixels:
    """A smooth image that no other seed has: a few colours, enlarged."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return images.resize(small, (size[1], size[0]))


def alone(repeats: int = 9) -> None:
    loaded_s, mebibytes = map(
        float, subprocess.run([sys.executable, "-c", MEMORY_PROGRAM], capture_output=True, check=True).stdout.split()
    )
    print(f"load {loaded_s * 1000:.0f} ms, memory {mebibytes:.0f} MiB\n")
    print("| image | ms a check | ms when it is remembered |\n|---|---|---|")
    checker = ImageChecker(OpenNsfw())
    for name, size in SIZES.items():
        images = [photo(seed, size) for seed in range(repeats)]
        times = [[_milliseconds(checker, image) for image in images] for _ in range(2)]
        print(f"| {name} | {statistics.median(times[0]):.1f} | {statistics.median(times[1]):.1f} |")


def _milliseconds(checker: ImageChecker, image: Pixels) -> float:
    began = time.perf_counter()
    checker.check(image, "input")
    return (time.perf_counter() - began) * 1000


@dataclass
class Side:
    """One of the two servers: a worker that checks, or one that does not."""

    deployment: Deployment
    seed: int

    def submit(self) -> str:
        self.seed += 1
        data = images.encode(photo(self.seed, (384, 512)), "png")
        inputs = (self.deployment.upload(data),)
        return self.deployment.submit(images=inputs, seed=self.seed, prompt="make it warmer", size=SIZE).id

    def run(self, count: int) -> float:
        """Seconds from the first submit to the last end."""
        began = time.perf_counter()
        for job_id in [self.submit() for _ in range(count)]:
            job = self.deployment.finished(job_id)
            assert job.output is not None, job.failure
        return time.perf_counter() - began


@contextlib.contextmanager
def two_sides(pipeline: Pipeline) -> Iterator[tuple[Side, Side]]:
    checking = JobPolicy(Moderation(images=ImageChecker(OpenNsfw())))
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        sides = []
        for name, policy in (("plain", JobPolicy()), ("checking", checking)):
            deployment = stack.enter_context(Deployment(Path(folder, name), model="demo"))
            stack.enter_context(deployment.worker(pipeline, name=name, policy=policy))
            sides.append(Side(deployment, 1000 if name == "plain" else 1_000_000))
        yield sides[0], sides[1]


def in_edits(pipeline: Pipeline, edits: int, burst: int) -> None:
    with two_sides(pipeline) as (plain, checking):
        plain.run(1), checking.run(1)
        print("\n| | plain | checking | ratio |\n|---|---|---|---|")
        one = [(plain.run(1), checking.run(1)) for _ in range(edits)]
        many = [(plain.run(burst), checking.run(burst)) for _ in range(3)]
        for name, pairs in ((f"one edit, median of {edits}", one), (f"{burst} edits, four at a time", many)):
            before, after = (statistics.median(side) for side in zip(*pairs, strict=True))
            ratio = statistics.median(with_check / without for without, with_check in pairs)
            print(f"| {name} | {before:.3f} s | {after:.3f} s | {ratio:.3f} |")


def harmless(pipeline: Pipeline, folders: Sequence[Path]) -> None:
    """Scores of every photo and of the demo's answers on it."""
    classifier, scores = OpenNsfw(), {}
    for path in sorted(path for folder in folders for path in folder.iterdir()):
        try:
            pixels = images.decode(path.read_bytes())
        except InvalidImage:
            continue
        scores[path.name] = classifier.score(pixels)
        for prompt in PROMPTS:
            scores[f"{path.name}, {prompt}"] = classifier.score(edited(pipeline, pixels, prompt))
    ordered = sorted(scores, key=scores.__getitem__, reverse=True)
    flagged = [name for name in ordered if scores[name] >= classifier.default_threshold]
    print(f"\n{len(flagged)} of {len(scores)} harmless images flagged at {classifier.default_threshold}; the highest:")
    print(json.dumps({name: round(scores[name], 3) for name in ordered[:5]}, indent=2))


def edited(pipeline: Pipeline, pixels: Pixels, prompt: str) -> Pixels:
    engine = Engine(pipeline)
    engine.add(EditSpec(prompt, width=256, height=256, seed=1, steps=4), [pixels])
    while engine.busy:
        for finished in engine.step().finished:
            return finished.pixels
    raise AssertionError("the edit did not finish")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edits", type=int, default=12)
    parser.add_argument("--burst", type=int, default=8)
    parser.add_argument("--photos", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    alone()
    pipeline = load_pipeline(checkpoint_named("demo"), device="cpu")
    in_edits(pipeline, options.edits, options.burst)
    if options.photos:
        harmless(pipeline, options.photos)


if __name__ == "__main__":
    main()
