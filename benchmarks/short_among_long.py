"""A short edit among ten long ones on a live server with the demo and one worker: how long it takes ÷ alone.

    python benchmarks/short_among_long.py [--steps 50] [--side 192]

Two keys. Ten long edits of the first key are submitted at once; when the first of them runs, a short one of the second
key is, and when that has ended, a short one of the first key. All speak fal's queue. Told besides: whether the long
ones ended in order, their total time ÷ ten times one alone, and how far the seconds left were off that callers were
told.
"""

from __future__ import annotations

import argparse
import base64
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from retouch.samples import __path__ as samples
from tests.live_server import LiveServer, clean_environment, live_server, retouch

ENDPOINT = "/fal/queue/fal-ai/qwen-image-edit"
PHOTO = Path(next(iter(samples))) / "cat.jpg"
LONGS, SHORT_STEPS = 10, 4


class Caller:
    """One key."""

    def __init__(self, server: LiveServer, key: str, side: int) -> None:
        self.server, self.key, self.side = server, key, side
        self.errors: list[float] = []  # of what it was told, as a share of the time that was really left

    def ask(self, url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Key {self.key}", "Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60) as answer:
            return dict(json.load(answer))

    def submit(self, steps: int) -> dict[str, Any]:
        image = "data:image/jpeg;base64," + base64.b64encode(PHOTO.read_bytes()).decode()
        body = {
            "prompt": "make it grayscale",
            "image_url": image,
            "num_inference_steps": steps,
            "image_size": {"width": self.side, "height": self.side},
            "enable_safety_checker": False,
        }
        return self.ask(self.server.url + ENDPOINT, body)

    def ended(self, ticket: dict[str, Any], *, every_s: float = 0.1) -> float:
        """When it had completed, by this process' clock."""
        predictions: list[tuple[float, float]] = []
        while (status := self.ask(ticket["status_url"]))["status"] != "COMPLETED":
            predictions.append((time.monotonic(), status["metrics"]["seconds_left"]))
            time.sleep(every_s)
        end = time.monotonic()
        self.errors += [abs(left / (end - at) - 1) for at, left in predictions if end - at > 0.15]
        return end

    def running(self, ticket: dict[str, Any]) -> None:
        while self.ask(ticket["status_url"])["status"] == "IN_QUEUE":
            time.sleep(0.02)

    def timed(self, steps: int) -> float:
        began = time.monotonic()
        return self.ended(self.submit(steps)) - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--side", type=int, default=192)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        data = Path(folder)
        keys = [made_key(data, name) for name in ("first", "second")]
        with live_server(data, model="demo", arguments=("--workers", "1")) as server:
            first, second = (Caller(server, key, options.side) for key in keys)
            second.timed(SHORT_STEPS)
            first.timed(options.steps)
            first.errors, second.errors = [], []
            alone = statistics.median(second.timed(SHORT_STEPS) for _ in range(5))
            long_alone = first.timed(options.steps)
            began = time.monotonic()
            longs = [first.submit(options.steps) for _ in range(LONGS)]
            ends: dict[int, float] = {}
            watchers = [
                threading.Thread(target=lambda n=n, t=t: ends.update({n: first.ended(t, every_s=0.5)}))
                for n, t in enumerate(longs)
            ]
            for watcher in watchers:
                watcher.start()
            first.running(longs[0])
            ratios = {
                "another key": second.timed(SHORT_STEPS) / alone,
                "the same key": first.timed(SHORT_STEPS) / alone,
            }
            for watcher in watchers:
                watcher.join()
            total = max(ends.values()) - began
            in_order = sorted(ends, key=ends.__getitem__) == list(range(LONGS))
            print(f"short alone {alone:.2f} s, long alone {long_alone:.2f} s")
            for name, ratio in ratios.items():
                print(f"short among {LONGS} long ones, {name}: {ratio:.2f} x alone")
            for name, caller in (("long", first), ("short", second)):
                within = statistics.median(caller.errors)
                print(f"seconds left, told to {name} edits: off by {100 * within:.0f} % at the median")
            print(f"the long ones: {total / (LONGS * long_alone):.2f} x ten alone, in order: {in_order}")


def made_key(data: Path, name: str) -> str:
    command = retouch("keys", "create", name, "--data", str(data))
    made = subprocess.run(command, capture_output=True, text=True, check=True, env=clean_environment())
    return made.stdout.strip().splitlines()[-1]


if __name__ == "__main__":
    main()
