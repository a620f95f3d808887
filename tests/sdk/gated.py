"""A server in this process whose model takes a step only when the test lets it.

Real parts throughout (SQLite, files, service, worker, uvicorn on a socket); only the pipeline is ours: it
echoes like the null pipeline, but each denoise step waits at a gate. It is no fixture; wrap it in one.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import uvicorn

from retouch.accounts.keys import ANONYMOUS, Keys
from retouch.catalog import Catalog, checkpoint_named
from retouch.database import Database
from retouch.engine.pipelines.null import NullPipeline
from retouch.engine.state import DenoiseState
from retouch.jobs.job import Job, JobState
from retouch.jobs.wakeups import open_wakeups
from retouch.protocols.authentication import Authenticator
from retouch.protocols.dependencies import AppDependencies
from retouch.server.app import create_app
from retouch.service import Service, ServiceSettings
from retouch.storage.fetch import Fetcher
from retouch.storage.open import open_blobs
from retouch.watch import Watch
from retouch.worker.policy import JobPolicy
from retouch.worker.settings import HeartbeatSettings, WorkerSettings
from retouch.worker.staging import input_reader
from retouch.worker.worker import Worker
from tests.live_server import free_port

PATIENCE_S = 20.0

T = TypeVar("T")


class GatedPipeline(NullPipeline):
    """Echoes the first picture; every step waits for `let_pass` or an open gate."""

    shared_step_tokens = 0

    def __init__(self) -> None:
        self.gate = threading.Event()
        self._passes = threading.Semaphore(0)

    def let_pass(self, steps: int = 1) -> None:
        self._passes.release(steps)

    def denoise(self, states: Sequence[DenoiseState]) -> None:
        while not self.gate.is_set() and not self._passes.acquire(timeout=0.02):
            pass
        super().denoise(states)


@dataclass(slots=True)
class GatedServer:
    """url: without a trailing slash. pipeline: the gate. service: to look at the jobs. key: none is needed."""

    url: str
    pipeline: GatedPipeline
    service: Service
    key: str | None = None

    def jobs(self) -> tuple[Job, ...]:
        return self.service.recent(ANONYMOUS, 100)

    def newest_once(self, fact: Callable[[Job], bool]) -> Job:
        """The newest job, as soon as `fact` is true of it."""
        return until(lambda: next((job for job in self.jobs()[:1] if fact(job)), None))

    def running(self) -> Job:
        return self.newest_once(lambda job: job.state is JobState.RUNNING)


def until(fact: Callable[[], T | None], patience_s: float = PATIENCE_S) -> T:
    """What `fact` returns, once it is something."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        found = fact()
        if found:
            return found
        threading.Event().wait(0.01)
    raise AssertionError(f"still not true after {patience_s} s")


@contextlib.contextmanager
def gated_server(
    data: Path,
    *,
    settings: ServiceSettings | None = None,
    running: int = 1,
    pipeline: GatedPipeline | None = None,
    policy: JobPolicy | None = None,
) -> Iterator[GatedServer]:
    """Start server and worker; stop both at the end, with the gate open."""
    data.mkdir(parents=True, exist_ok=True)
    checkpoint = checkpoint_named("null")
    database = Database(f"sqlite:///{data / 'retouch.db'}")
    database.migrate()
    blobs, wakeups, catalog = open_blobs(None, data), open_wakeups(database, data), Catalog.serving(checkpoint)
    service = Service(database, blobs, catalog, wakeups, settings)
    pipeline = pipeline or GatedPipeline()
    worker = Worker(
        "gated",
        service=service,
        blobs=blobs,
        wakeups=wakeups,
        read=input_reader(blobs, Fetcher(()).fetch),
        load=lambda: pipeline,
        checkpoint=checkpoint,
        policy=lambda _engine, _pipeline: policy or JobPolicy(),
        settings=WorkerSettings(
            most_leased=running, poll_s=0.05, heartbeat=HeartbeatSettings(progress_s=0.01, preview_s=0.0)
        ),
    )
    authenticator = Authenticator(Keys(database), loopback=True, no_auth=False)
    app = create_app(AppDependencies(service, Watch(service), blobs, catalog, authenticator))
    port, stop = free_port(), threading.Event()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", timeout_graceful_shutdown=2))
    threads = [threading.Thread(target=server.run), threading.Thread(target=worker.run, args=(stop,))]
    for thread in threads:
        thread.start()
    try:
        until(lambda: server.started and service.ready() is None)
        yield GatedServer(f"http://127.0.0.1:{port}", pipeline, service)
    finally:
        pipeline.gate.set()
        server.should_exit = True
        stop.set()
        for thread in threads:
            thread.join(PATIENCE_S)
        wakeups.close()
        database.close()
