"""A workbench for worker tests: a real service, a real folder of blobs, workers on threads.

`Gated` is a pipeline whose verbs wait until the test lets them go, so that a test can act in the middle of a
step without measuring time.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from retouch import images
from retouch.accounts.keys import ANONYMOUS
from retouch.catalog import Catalog, Checkpoint, checkpoint_named
from retouch.database import Database
from retouch.edit import Delivery, EditRequest, EditSpec, ImageInput
from retouch.engine.engine import Engine
from retouch.engine.pipeline import Pipeline
from retouch.engine.pipelines.null import NullPipeline
from retouch.engine.state import DenoiseState
from retouch.errors import ForbiddenAddress
from retouch.images import Pixels
from retouch.jobs.job import Job, JobState
from retouch.jobs.wakeups import JOB_TOPIC, open_wakeups
from retouch.service import Service
from retouch.storage.open import open_blobs
from retouch.worker.policy import JobPolicy
from retouch.worker.settings import HeartbeatSettings, WorkerSettings
from retouch.worker.staging import input_reader
from retouch.worker.worker import Worker

WITHIN_S = 15.0

DELIVERY = Delivery(protocol="openai", endpoint="qwen-image-edit")


class Gated(NullPipeline):
    """The null pipeline, one verb at a time: `let(n)` allows n more calls of the gated verb."""

    def __init__(self, verb: str = "denoise") -> None:
        self.verb = verb
        self.calls = 0
        self.entered = threading.Semaphore(0)
        self._allowed = threading.Semaphore(0)

    def let(self, calls: int = 1) -> None:
        self._allowed.release(calls)

    def wait_until_inside(self) -> None:
        assert self.entered.acquire(timeout=WITHIN_S), f"{self.verb} was not reached"

    def prepare(self, spec: EditSpec, images: Sequence[Pixels]) -> DenoiseState:
        self._pass("prepare")
        return super().prepare(spec, images)

    def denoise(self, states: Sequence[DenoiseState]) -> None:
        self._pass("denoise")
        super().denoise(states)

    def _pass(self, verb: str) -> None:
        if verb == self.verb:
            self.calls += 1
            self.entered.release()
            assert self._allowed.acquire(timeout=WITHIN_S), f"{verb} was never allowed to go on"


def no_network(url: str, *, field: str) -> bytes:
    raise ForbiddenAddress(f"The link {url} leads to a private address.", field=field)


def png(width: int = 64, height: int = 48, *, seed: int = 0) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return images.encode(noise, "png")


@dataclass
class WorkBench:
    """Everything a worker needs, and a few short words for what tests do with it."""

    data: Path
    database_url: str = ""
    checkpoint: Checkpoint = field(default_factory=lambda: checkpoint_named("null"))

    def __post_init__(self) -> None:
        self.database_url = self.database_url or f"sqlite:///{self.data / 'retouch.db'}"
        self.database = Database(self.database_url)
        self.database.migrate()
        self.blobs = open_blobs(None, self.data)
        self.wakeups = open_wakeups(self.database, self.data)
        self.service = Service(self.database, self.blobs, Catalog.serving(self.checkpoint), self.wakeups)

    def close(self) -> None:
        self.wakeups.close()
        self.database.close()

    def request(self, **changes: object) -> EditRequest:
        stored = self.blobs.put(png(), "image/png", folder="uploads")
        plain = EditRequest(model="qwen-image-edit", prompt="make it grey", images=(ImageInput(blob=stored),), seed=7)
        return replace(plain, **changes)  # type: ignore[arg-type]

    def submit(self, *, delivery: Delivery = DELIVERY, **changes: object) -> Job:
        return self.service.submit(ANONYMOUS, self.request(**changes), delivery).job

    def job(self, job_id: str) -> Job:
        return self.service.get_any(job_id)

    def until(self, fact: Callable[[], bool], *, within_s: float = WITHIN_S) -> None:
        """Wait for a fact about jobs, woken by their changes."""
        deadline = time.monotonic() + within_s
        with contextlib.closing(self.wakeups.subscribe((JOB_TOPIC,))) as subscription:
            while not fact():
                assert time.monotonic() < deadline, "the awaited fact did not come about"
                subscription.wait(0.05)

    def finished(self, job_id: str) -> Job:
        """The job once it has ended."""
        self.until(lambda: self.job(job_id).state.final)
        return self.job(job_id)

    def state(self, job_id: str) -> JobState:
        return self.job(job_id).state

    @contextlib.contextmanager
    def worker(
        self,
        pipeline: Pipeline | None = None,
        *,
        name: str = "worker-a",
        settings: WorkerSettings | None = None,
        policy: JobPolicy | Callable[[Engine, Pipeline], JobPolicy] | None = None,
    ) -> Iterator[RunningWorker]:
        """A worker on a thread, stopped at the end; a gated pipeline is opened wide for the stop."""
        pipeline = pipeline or NullPipeline()
        settings = settings or WorkerSettings(outage_pause_s=0.05, poll_s=0.2, heartbeat=HeartbeatSettings(lease_s=5.0))
        worker = Worker(
            name,
            service=self.service,
            blobs=self.blobs,
            wakeups=self.wakeups,
            read=input_reader(self.blobs, no_network),
            load=lambda: pipeline,
            checkpoint=self.checkpoint,
            settings=settings,
            policy=policy if callable(policy) else lambda _engine, _pipeline: policy or JobPolicy(),
        )
        running = RunningWorker(worker)
        running.start()
        try:
            yield running
        finally:
            running.stop.set()
            if isinstance(pipeline, Gated):
                pipeline.let(10_000)
            running.join()


class RunningWorker:
    """A worker's thread and what came of it."""

    def __init__(self, worker: Worker) -> None:
        self.stop = threading.Event()
        self.error: BaseException | None = None
        self._worker = worker
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join(WITHIN_S)
        assert not self._thread.is_alive(), "the worker did not stop"

    def _run(self) -> None:
        try:
            self._worker.run(self.stop)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error
