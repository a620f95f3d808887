"""A worker process that stops at one station of a job until it is let on, so that a test can kill it there.

    python -m tests.durability.gated_worker DATABASE_URL DATA_FOLDER NAME STATION LEASE_S

It is the real worker with the null pipeline; what is gated is what a worker is given: how it loads, reads,
computes and stores. The gate is `FileGate(DATA_FOLDER, NAME)`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from retouch.cli.process import set_up_logging
from retouch.edit import ImageInput
from retouch.storage.fetch import Fetcher
from retouch.storage.objects import LocalBlobs, link_secret
from retouch.worker.settings import HeartbeatSettings, WorkerSettings
from retouch.worker.staging import input_reader
from tests.harness import Deployment, FileGate, GatedPipeline

STATIONS = ("load", "stage in", "prepare", "denoise", "decode", "stage out", "uploaded")


class GatedBlobs(LocalBlobs):
    """Passes a station before and after each output it stores."""

    def __init__(self, data: Path, at: Callable[[str], None]) -> None:
        super().__init__(data / "files", link_secret(data / "link-secret"), clock=lambda: datetime.now(UTC))
        self._at = at

    def put(self, data: bytes, media_type: str, *, folder: str, **how: Any) -> str:
        if folder == "outputs":
            self._at("stage out")
        key = super().put(data, media_type, folder=folder, **how)
        if folder == "outputs":
            self._at("uploaded")
        return key


def main(database_url: str, data: Path, name: str, station: str, lease_s: float) -> None:
    set_up_logging("info")
    gate = FileGate(data, name)

    def at(here: str) -> None:
        if here == station:
            gate.arrive()

    def load() -> GatedPipeline:
        at("load")
        return GatedPipeline(gate, station)

    def read(image: ImageInput) -> bytes:
        at("stage in")
        return input_reader(deployment.blobs, Fetcher(()).fetch)(image)

    deployment = Deployment(data, database_url, blobs=GatedBlobs(data, at))
    settings = WorkerSettings(poll_s=0.2, heartbeat=HeartbeatSettings(lease_s=lease_s, beat_s=1.0))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    deployment.new_worker(load, name=name, settings=settings, read=read).run(stop)
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4], float(sys.argv[5]))
