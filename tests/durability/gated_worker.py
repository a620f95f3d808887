"""A worker process that stops at one station of a job until it is let on, so that a test can kill it there.

    python -m tests.durability.gated_worker DATABASE_URL DATA_FOLDER NAME STATION LEASE_S

It is the real worker with the null pipeline; what is gated is what a worker is given: how it loads, reads,
computes and stores. Arriving at the station it makes the file `NAME.at`, and goes on when `NAME.go` is there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from retouch.catalog import Catalog, checkpoint_named
from retouch.cli.logs import set_up_logging
from retouch.database import Database
from retouch.edit import EditSpec, ImageInput
from retouch.engine.pipelines.null import NullPipeline
from retouch.engine.state import DenoiseState
from retouch.images import Pixels
from retouch.jobs.wakeups import open_wakeups
from retouch.service import Service
from retouch.storage.local import LocalBlobs, link_secret
from retouch.worker.settings import HeartbeatSettings, WorkerSettings
from retouch.worker.staging import input_reader
from retouch.worker.worker import Worker
from tests.unit.worker.bench import no_network

STATIONS = ("load", "stage in", "prepare", "denoise", "decode", "stage out", "uploaded")
PATIENCE_S = 60.0


class Gate:
    """Stops whoever passes `station`."""

    def __init__(self, folder: Path, name: str, station: str) -> None:
        self._arrived = folder / f"{name}.at"
        self._go = folder / f"{name}.go"
        self._station = station

    def at(self, station: str) -> None:
        if station != self._station:
            return
        self._arrived.touch()
        until = time.monotonic() + PATIENCE_S
        while not self._go.exists():
            assert time.monotonic() < until, f"nobody opened the gate at {station}"
            time.sleep(0.01)  # the worker's own time, as a slow device would take it


class GatedPipeline(NullPipeline):
    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def prepare(self, spec: EditSpec, images: Sequence[Pixels]) -> DenoiseState:
        self._gate.at("prepare")
        return super().prepare(spec, images)

    def denoise(self, states: Sequence[DenoiseState]) -> None:
        self._gate.at("denoise")
        super().denoise(states)

    def decode(self, state: DenoiseState) -> Pixels:
        self._gate.at("decode")
        return super().decode(state)


class GatedBlobs(LocalBlobs):
    def __init__(self, folder: Path, secret: bytes, gate: Gate) -> None:
        super().__init__(folder, secret, clock=lambda: datetime.now(UTC))
        self._gate = gate

    def put(
        self,
        data: bytes,
        media_type: str,
        *,
        folder: str,
        name: str | None = None,
        ttl_s: float | None = None,
        sync: bool = True,
    ) -> str:
        if folder == "outputs":
            self._gate.at("stage out")
        key = super().put(data, media_type, folder=folder, name=name, ttl_s=ttl_s, sync=sync)
        if folder == "outputs":
            self._gate.at("uploaded")
        return key


def main(database_url: str, data: Path, name: str, station: str, lease_s: float) -> None:
    set_up_logging("info")
    gate = Gate(data, name, station)
    database = Database(database_url)
    blobs = GatedBlobs(data / "files", link_secret(data / "link-secret"), gate)
    wakeups = open_wakeups(database, data)
    checkpoint = checkpoint_named("null")

    def load() -> NullPipeline:
        gate.at("load")
        return GatedPipeline(gate)

    def read(image: ImageInput) -> bytes:
        gate.at("stage in")
        return input_reader(blobs, no_network)(image)

    worker = Worker(
        name,
        service=Service(database, blobs, Catalog.serving(checkpoint), wakeups),
        blobs=blobs,
        wakeups=wakeups,
        read=read,
        load=load,
        checkpoint=checkpoint,
        settings=WorkerSettings(poll_s=0.2, heartbeat=HeartbeatSettings(lease_s=lease_s, beat_s=1.0)),
    )
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    worker.run(stop)
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4], float(sys.argv[5]))
