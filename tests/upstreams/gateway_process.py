"""A gateway in a process of its own, before stubs of the test's process, so that a test can kill it at a station.

    python -m tests.upstreams.gateway_process DATABASE_URL DATA_FOLDER NAME STATION LEASE_S KIND=URL…

STATION is `planned` (nothing is written or sent yet) or `-`; other stations are held by the stub's scripts. The
gate is `FileGate(DATA_FOLDER, NAME)`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from retouch.cli.process import set_up_logging
from retouch.jobs.attempts import Attempt
from retouch.jobs.job import Lease
from retouch.upstreams.attempt_book import AttemptBook
from retouch.upstreams.gateway import GatewayTimes
from tests.harness import FileGate
from tests.upstreams.gateway_world import GatewayWorld


class Elsewhere:
    """A stub that runs in another process."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url

    def close(self) -> None:
        pass


def main(database_url: str, data: Path, name: str, station: str, lease_s: float, *stubs: str) -> None:
    set_up_logging("info")
    gate = FileGate(data, name)
    if station == "planned":
        plain = AttemptBook.send

        def gated(self: AttemptBook, lease: Lease, new: Attempt) -> Attempt:
            gate.arrive()
            return plain(self, lease, new)

        AttemptBook.send = gated  # type: ignore[method-assign]
    urls: dict[str, Any] = {kind: Elsewhere(url) for kind, _, url in (stub.partition("=") for stub in stubs)}
    world = GatewayWorld(data, database_url, *urls, providers=urls)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    times = GatewayTimes(lease_s=lease_s, poll_s=0.2, round_s=0.1, beat_s=1.0, stop_s=3.0, outage_pause_s=0.1)
    with world.gateway(name, times):
        stop.wait()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4], float(sys.argv[5]), *sys.argv[6:])
