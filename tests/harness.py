"""A whole installation in the test's own process, and gates that stop its work where a test wants to act.

Real parts throughout: SQLite or PostgreSQL, files, service, workers on threads, uvicorn on a socket; only the clock can
be moved by hand, and a gated pipeline waits where it is told to. Servers and workers in processes of their own
are in `live_server.py` and `durability/gated_worker.py`.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import pytest
import structlog
import uvicorn
from sqlalchemy import Connection, event, func, select

from retouch import images
from retouch.accounts.keys import ANONYMOUS, Account, Keys
from retouch.catalog import Catalog, Checkpoint, checkpoint_named
from retouch.database import Database
from retouch.edit import Acceleration, Delivery, EditOutput, EditRequest, ImageInput, OutputImage, Usage
from retouch.engine.engine import Engine
from retouch.engine.pipeline import DenoiseState, Pipeline
from retouch.engine.pipelines.null import NullPipeline
from retouch.images import Pixels
from retouch.jobs import fair_queue, store
from retouch.jobs.job import Job, JobState, Lease, utc_now
from retouch.jobs.tables import fair_clock, fair_share, job, queue_block
from retouch.jobs.wakeups import open_wakeups
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.http import Authenticator
from retouch.server.app import create_app
from retouch.service import Service, ServiceSettings
from retouch.storage.blobs import Blobs
from retouch.storage.fetch import Fetcher
from retouch.storage.open import open_blobs
from retouch.watch import Watch
from retouch.worker.policy import JobPolicy
from retouch.worker.settings import HeartbeatSettings, WorkerSettings
from retouch.worker.staging import FindLora, ReadInput, input_reader, no_lora
from retouch.worker.worker import SharedDevice, Worker
from tests.databases import migrated_file
from tests.waiting import WITHIN_S, until

ANNE = Account("anne", "anne", "key_anne")
BEN = Account("ben", "ben", "key_ben")
DELIVERY = Delivery("openai", "qwen-image-edit")
OUTPUT = EditOutput((OutputImage("outputs/none", 256, 256, "image/png", 1000, 7),), "make it red", {}, (256, 256))
USAGE = Usage(images=1, pixels=65_536, steps=4, device_ms=120)
_EDIT_FIELDS = {field.name for field in fields(EditRequest)}


def an_edit(prompt: str = "make it red", **changes: Any) -> EditRequest:
    """The smallest edit there is, with every step of its model; nothing fetches its link unless a worker takes the job."""
    image = ImageInput(url="https://example.com/cat.png")
    plain = EditRequest("qwen-image-edit", prompt, (image,), seed=7, acceleration=Acceleration.NONE)
    return replace(plain, **changes)


def png(width: int = 64, height: int = 48, *, seed: int = 0) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return images.encode(noise, "png")


class HandClock:
    """Stands still until it is moved; `running` goes on by itself as well."""

    def __init__(self, *, running: bool = False) -> None:
        self._running = running
        self._moved = timedelta()

    @property
    def now(self) -> datetime:
        return (utc_now() if self._running else datetime(2026, 1, 1, tzinfo=UTC)) + self._moved

    def __call__(self) -> datetime:
        return self.now

    def move(self, seconds: float) -> None:
        self._moved += timedelta(seconds=seconds)


# --- gates


class Gate(Protocol):
    def arrive(self) -> None:
        """Called where the work is to stop; returns when it may go on."""


class ThreadGate:
    """Between threads: `let(n)` lets n arrivals on, `open` all of them until `close`. arrivals: how many came."""

    def __init__(self) -> None:
        self.arrivals = 0
        self._awaited = 0
        self._allowed = 0
        self._is_open = False
        self._changed = threading.Condition()

    def arrive(self) -> None:
        with self._changed:
            self.arrivals += 1
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._is_open or self._allowed, 2 * WITHIN_S), "not let on"
            if not self._is_open:
                self._allowed -= 1

    def wait_for_arrival(self) -> None:
        """Wait for the next arrival that was not waited for yet."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.arrivals > self._awaited, WITHIN_S), "the gate was not reached"
            self._awaited += 1

    def let(self, arrivals: int = 1) -> None:
        with self._changed:
            self._allowed += arrivals
            self._changed.notify_all()

    def open(self) -> None:
        with self._changed:
            self._is_open = True
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._is_open, self._allowed = False, 0


class FileGate:
    """Between processes: the first arrival makes the file `NAME.at`; all go on when `NAME.go` is there."""

    def __init__(self, folder: Path, name: str) -> None:
        self._at, self._go = folder / f"{name}.at", folder / f"{name}.go"

    def arrive(self) -> None:
        self._at.touch()
        until(self._go.exists, within_s=2 * WITHIN_S)

    def reached(self) -> bool:
        return self._at.exists()

    def open(self) -> None:
        self._go.touch()


class GatedPipeline(NullPipeline):
    """The null pipeline, one edit at a time, that stops at the gate before each call of one of its verbs."""

    shared_step_tokens = 0

    def __init__(self, gate: Gate, verb: str = "denoise") -> None:
        self._gate = gate
        self._verb = verb

    def prepare(self, *given: Any, **named: Any) -> DenoiseState:
        self._pass("prepare")
        return super().prepare(*given, **named)

    def denoise(self, states: Sequence[DenoiseState]) -> None:
        self._pass("denoise")
        super().denoise(states)

    def decode(self, state: DenoiseState) -> Pixels:
        self._pass("decode")
        return super().decode(state)

    def _pass(self, verb: str) -> None:
        if verb == self._verb:
            self._gate.arrive()


# --- the installation


class Deployment:
    """One service, what it stands on, and the short verbs of tests.

    others: checkpoints that are served beside `model`, to which a worker has to be given. database_url: of a migrated database; empty for a SQLite file in `folder`, which is made unless it is there.
    clock: of the service; the real time if left out. uploads: whether `submit` stores an image first, as a
    worker needs one. gate: the one of its gated pipelines. url: of its server while there is one; no key
    is needed there.
    """

    def __init__(
        self,
        folder: Path,
        database_url: str = "",
        *,
        model: str | Checkpoint = "null",
        others: Sequence[Checkpoint] = (),
        settings: ServiceSettings | None = None,
        clock: HandClock | None = None,
        blobs: Blobs | None = None,
        uploads: bool = False,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if not database_url:
            file = folder / "retouch.db"
            database_url = f"sqlite:///{file}"
            if not file.exists():
                shutil.copyfile(migrated_file(), file)
        self.folder = folder
        self.database_url = database_url
        self.checkpoint = checkpoint_named(model) if isinstance(model, str) else model
        self.clock = clock or HandClock(running=True)
        self.gate = ThreadGate()
        self.url = ""
        self.key = None
        self._uploads = uploads
        self.database = Database(database_url)
        self._reads_left: Iterator[int] | None = None  # during an outage
        for engine in (self.database._backend.reader, self.database._backend.writer):
            event.listen(engine, "begin", self._meet_outage)
        self.blobs = blobs or open_blobs(None, folder)
        self.wakeups = open_wakeups(self.database, folder)
        self.catalog = Catalog.serving(self.checkpoint, *others)
        self.service = Service(self.database, self.blobs, self.catalog, self.wakeups, settings, self.clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.wakeups.close()
        self.database.close()

    def dependencies(self, **more: Any) -> AppDependencies:
        keys = Authenticator(Keys(self.database), loopback=True, no_auth=False)
        return AppDependencies(self.service, Watch(self.service), self.blobs, self.catalog, keys, **more)

    @contextlib.contextmanager
    def server(self) -> Iterator[str]:
        """Serve every face on a port of 127.0.0.1; the URL has no trailing slash."""
        app = create_app(self.dependencies())
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=2))
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            until(lambda: server.started)
            self.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
            yield self.url
        finally:
            server.should_exit = True
            thread.join(WITHIN_S)

    def new_worker(
        self,
        load: Callable[[], Pipeline],
        *,
        name: str = "worker-a",
        settings: WorkerSettings | None = None,
        policy: JobPolicy | Callable[[Engine, Pipeline], JobPolicy] | None = None,
        read: ReadInput | None = None,
        checkpoint: Checkpoint | None = None,
        shared: SharedDevice | None = None,
        find_lora: FindLora = no_lora,
    ) -> Worker:
        return Worker(
            name,
            service=self.service,
            blobs=self.blobs,
            wakeups=self.wakeups,
            read=read or input_reader(self.blobs, Fetcher(()).fetch),
            find_lora=find_lora,
            load=load,
            checkpoint=checkpoint or self.checkpoint,
            shared=shared,
            settings=settings
            or WorkerSettings(outage_pause_s=0.05, poll_s=0.2, heartbeat=HeartbeatSettings(lease_s=5.0)),
            policy=policy if callable(policy) else lambda _engine, _pipeline: policy or JobPolicy(),
        )

    @contextlib.contextmanager
    def worker(self, pipeline: Pipeline | None = None, **how: Any) -> Iterator[RunningWorker]:
        """A worker on a thread, made as `new_worker` says; at the end it is stopped and the gate opened."""
        pipeline = pipeline or NullPipeline()
        running = RunningWorker(self.new_worker(lambda: pipeline, **how))
        try:
            yield running
        finally:
            running.stop.set()
            self.gate.open()
            running.join()

    def upload(self, data: bytes | None = None) -> ImageInput:
        return ImageInput(blob=self.blobs.put(data or png(), "image/png", folder="uploads"))

    def submit(self, account: Account = ANNE, *, delivery: Delivery = DELIVERY, **named: Any) -> Job:
        """`named` are fields of the edit, and whatever else `Service.submit` takes."""
        edit = {name: named.pop(name) for name in _EDIT_FIELDS & named.keys()}
        if self._uploads and "images" not in edit:
            edit["images"] = (self.upload(),)
        return self.service.submit(account, an_edit(**edit), delivery, **named).job

    def lease(self, worker: str = "w1", lease_s: float = 30) -> Lease:
        lease = self.service.lease(worker, [self.checkpoint.name], lease_s)
        assert lease is not None
        return lease

    def lose_the_worker(self, lease_s: float = 30) -> None:
        """Let every lease run out and be rescued."""
        self.clock.move(lease_s + 1)
        self.service.sweep()

    def job(self, job_id: str) -> Job:
        return self.service.get_any(job_id)

    def state(self, job_id: str) -> JobState:
        return self.job(job_id).state

    def finished(self, job_id: str) -> Job:
        """The job once it has ended."""
        until(lambda: self.state(job_id).final)
        return self.job(job_id)

    def jobs(self) -> tuple[Job, ...]:
        """Those of callers without a key, the newest first."""
        return self.service.recent(ANONYMOUS, 100)

    def newest_once(self, fact: Callable[[Job], bool]) -> Job:
        """The newest of `jobs`, as soon as `fact` is true of it."""
        return until(lambda: next((job for job in self.jobs()[:1] if fact(job)), None))

    def running(self) -> Job:
        return self.newest_once(lambda job: job.state is JobState.RUNNING)

    @contextlib.contextmanager
    def outage(self, *, since: str, reads: int = 0) -> Iterator[None]:
        """The driver of SQLite refuses everything from the log line `since` on, after the first `reads` of requests."""

        def note(_logger: object, _method: str, line: Any) -> Any:
            if line["event"] == since:
                self._reads_left = itertools.count(reads, -1)
            return line

        processors = structlog.get_config()["processors"]
        processors.insert(0, note)
        try:
            yield
        finally:
            processors.remove(note)
            self._reads_left = None

    def _meet_outage(self, connection: Connection) -> None:
        left = self._reads_left
        of_a_request = "request" in structlog.contextvars.get_contextvars()
        if left is None or (of_a_request and next(left) > 0):
            return
        raw: Any = connection.connection.dbapi_connection
        raw.set_authorizer(lambda *_: sqlite3.SQLITE_DENY)
        try:
            connection.exec_driver_sql("SELECT 1")
        finally:
            raw.set_authorizer(None)

    # --- what the tables say

    def count(self, table: Any) -> int:
        with self.database.read() as connection:
            return int(connection.execute(select(func.count()).select_from(table)).scalar_one())

    def waiting_in_order(self) -> list[Job]:
        """What the queue is, by sorting all of it: the plain form of what `fair_queue.py` maintains."""
        query = select(job.c.id).where(fair_queue.QUEUED).order_by(job.c.priority, job.c.fair_tag, job.c.sequence)
        with self.database.read() as connection:
            ids = connection.execute(query).scalars().all()
        jobs = self.service.get_many(ids)
        return [jobs[job_id][0] for job_id in ids]

    def check_the_line(self) -> None:
        """Positions are 0 to n-1 in claim order, blocks tile the line, and every maintained count is true."""
        waiting = self.waiting_in_order()
        positions = self.service.get_many([each.id for each in waiting])
        assert [positions[each.id][1] for each in waiting] == list(range(len(waiting)))
        with self.database.read() as connection:
            blocks = connection.execute(fair_queue._BLOCKS, {"of_queue": self.checkpoint.name}).all()
            shares = connection.execute(select(fair_share)).all()
            started = connection.execute(select(fair_clock)).all()
            assert connection.execute(select(func.count()).select_from(queue_block)).scalar_one() == len(blocks)
        assert sum(block.cost for block in blocks) == sum(each.cost for each in waiting)
        costs = itertools.accumulate((each.cost for each in waiting), initial=0)
        assert [self.ahead(each).cost for each in waiting[::7]] == list(costs)[:-1][::7]
        assert all(row.mean_cost > 0 for row in started)
        assert sum(block.waiting for block in blocks) == len(waiting)
        assert all(block.waiting <= fair_queue.BLOCK_SIZE for block in blocks)
        for block, following in itertools.pairwise(blocks):
            assert tuple(block[4:7]) == tuple(following[1:4])
        counts = Counter((each.account_id, each.priority, each.quick) for each in waiting)
        assert {(each.account_id, each.priority, each.quick): each.waiting for each in shares if each.waiting} == counts

    def ahead(self, waiting: Job) -> fair_queue.Ahead:
        with self.database.read() as connection:
            return store.ahead(connection, waiting)


class RunningWorker:
    """A worker's thread and what came of it."""

    def __init__(self, worker: Worker) -> None:
        self.stop = threading.Event()
        self.error: BaseException | None = None
        self._worker = worker
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def join(self) -> None:
        self._thread.join(WITHIN_S)
        assert not self._thread.is_alive(), "the worker did not stop"

    def _run(self) -> None:
        try:
            self._worker.run(self.stop)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error


@contextlib.contextmanager
def gated_server(
    folder: Path,
    *,
    settings: ServiceSettings | None = None,
    running: int = 1,
    pipeline: Pipeline | None = None,
    policy: JobPolicy | None = None,
) -> Iterator[Deployment]:
    """A server and a worker that tells of every step; the deployment's gate is before each, unless `pipeline` has none."""
    often = HeartbeatSettings(progress_s=0.01, preview_s=0.0)
    stepwise = WorkerSettings(most_leased=running, poll_s=0.05, heartbeat=often)
    with (
        Deployment(folder, settings=settings) as deployment,
        deployment.worker(pipeline or GatedPipeline(deployment.gate), settings=stepwise, policy=policy),
        deployment.server(),
    ):
        until(lambda: deployment.service.ready() is None)
        try:
            yield deployment
        finally:
            deployment.gate.open()  # before the server stops: what it waits for may be behind the gate


# --- fixtures, to be imported in a `conftest.py`


@pytest.fixture
def world(database_url: str, tmp_path: Path) -> Iterator[Deployment]:
    """On each database, with a clock that stands still."""
    with Deployment(tmp_path, database_url, model="demo", clock=HandClock()) as world:
        yield world


@pytest.fixture
def sqlite_world(tmp_path: Path) -> Iterator[Deployment]:
    with Deployment(tmp_path, model="demo", clock=HandClock()) as world:
        yield world


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Deployment]:
    """For workers: real time, and edits whose image is stored."""
    with Deployment(tmp_path, uploads=True) as bench:
        yield bench
