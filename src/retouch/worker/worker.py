"""The loops of one worker, which runs one model: a thread leases jobs, one drives the engine, one keeps the leases.

What becomes of a leased job is in `job_runner.py`, how leases are kept in `heartbeat.py`. What a worker makes after it
has lost a lease is refused by the service's fence; nothing here decides states or money.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

import structlog

from retouch.catalog import Checkpoint
from retouch.engine.cost import CostLearner
from retouch.engine.device_errors import DeviceLost
from retouch.engine.engine import Engine
from retouch.engine.pipeline import Pipeline
from retouch.errors import RetouchError, Unavailable
from retouch.jobs.wakeups import WakeUps, queue_topic
from retouch.service import Service
from retouch.storage.blobs import Blobs
from retouch.storage.caller_bucket import CallerBuckets
from retouch.worker.heartbeat import Heartbeat
from retouch.worker.job_runner import BUSY, WAITED, JobRunner, Lifecycle, Phase
from retouch.worker.policy import JobPolicy
from retouch.worker.settings import WorkerSettings
from retouch.worker.shared_device import SharedDevice
from retouch.worker.staging import FindLora, ReadInput, no_lora

logger = structlog.get_logger(__name__)

SOON_S = 0.1
"""How long the head of the line may wait after what was predicted to be in its way has ended early."""


class Worker:
    """One model's worker on one device. `run` blocks until it is stopped."""

    def __init__(
        self,
        name: str,
        *,
        service: Service,
        blobs: Blobs,
        wakeups: WakeUps,
        read: ReadInput,
        load: Callable[[], Pipeline],
        checkpoint: Checkpoint,
        settings: WorkerSettings,
        device: str = "auto",
        find_lora: FindLora = no_lora,
        caller_buckets: CallerBuckets | None = None,
        policy: Callable[[Engine, Pipeline], JobPolicy] = lambda _engine, _pipeline: JobPolicy(),
        warm_up: Callable[[Engine, Pipeline, CostLearner, Callable[[str], None]], None] | None = None,
        shared: SharedDevice | None = None,
    ) -> None:
        """`load` brings the pipeline into memory, then `policy` what is needed beside it; `warm_up` runs a first edit.

        Each is called once, in the thread that will drive the engine. shared: the device, when other models of this
        process use it too; a model that cannot be loaded then ends with a problem, and the others go on.
        """
        self._name = name
        self._service = service
        self._wakeups = wakeups
        self._load = load
        self._policy = policy
        self._warm_up = warm_up
        self._queue = checkpoint.name
        self._settings = settings
        self._lifecycle = Lifecycle()
        self._crash: BaseException | None = None
        self._refusal: RetouchError | None = None
        self._device = shared or SharedDevice()
        self._seat = self._device.seat(lambda: self._runner.engine is not None and self._runner.engine.busy)
        self._runner = JobRunner(
            service=service,
            blobs=blobs,
            read=read,
            find_lora=find_lora,
            checkpoint=checkpoint,
            settings=settings,
            lifecycle=self._lifecycle,
            caller_buckets=caller_buckets or CallerBuckets(),
        )
        self._heartbeat = Heartbeat(
            name, (checkpoint.name,), device, service, blobs, wakeups, self._runner, settings.heartbeat
        )

    def run(self, stop: threading.Event) -> None:
        """Load the model and work until `stop` is set, then give back what is not done and return.

        Raises what loading or driving the engine raised, among it DeviceLost. When it returns while the device is
        inside a step, that step's thread is still alive; it holds nothing any more.
        """
        self._start("heartbeat", lambda: self._heartbeat.run(self._lifecycle), stop)
        self._start("engine", self._drive_engine, stop)
        leasing = self._start("lease", self._lease_jobs, stop)
        stop.wait()
        began = time.monotonic()
        self._lifecycle.advance(Phase.STOPPING)
        self._runner.give_back_unfinished()
        # A lease may be on its way out of the database: `begin` gives it back, and nothing is leased after that.
        leasing.join(2 * self._settings.poll_s)
        self._runner.close(storing_s=max(0.0, self._settings.stop_s - (time.monotonic() - began)))
        # Only now, so that the leases of images that were being stored did not run out meanwhile.
        self._lifecycle.advance(Phase.STOPPED)
        if self._crash is None and self._device.none_runs():
            self._crash = self._refusal  # the worker of another model was faster to end them all
        if self._crash is not None:
            raise self._crash

    def _start(self, name: str, loop: Callable[[], None], stop: threading.Event) -> threading.Thread:
        """A thread whose unforeseen end is the end of the worker: one without it would hold jobs and not run them."""

        def guarded() -> None:
            try:
                loop()
            except BaseException as error:  # noqa: BLE001 - handed to the thread that called run, which raises it
                self._crash = self._crash or error
                stop.set()

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        thread.start()
        return thread

    def _lease_jobs(self) -> None:
        """Take the head of the line just in time, woken by the queue's topic."""
        self._lifecycle.wait(Phase.RUNNING)
        with contextlib.closing(self._wakeups.subscribe((queue_topic(self._queue),))) as subscription:
            while not self._lifecycle.reached(Phase.STOPPING):
                try:
                    pause_s = self._lease_next()
                except Unavailable as error:
                    logger.warning("cannot lease", reason=error.message)
                    self._lifecycle.wait(Phase.STOPPING, self._settings.outage_pause_s)
                    continue
                if pause_s:
                    subscription.wait(pause_s)

    def _lease_next(self) -> float:
        """Lease the head of the line if it is time; returns how long nothing can change by itself, 0 after a lease."""
        settings, jobs = self._settings, self._runner.jobs
        if sum(job.staged is None for job in jobs) >= settings.staging:
            return min(SOON_S, settings.poll_s)
        place = self._service.head(self._queue)
        if place is None:
            return settings.poll_s
        if self._runner.seconds_before(place) >= settings.ready_s:
            return min(SOON_S, settings.poll_s)  # held here any sooner, it could not go to a worker that is free before
        if len(jobs) >= settings.most_leased:
            self._runner.give_back_behind(place)
            return min(SOON_S, settings.poll_s)
        lease = self._service.lease(self._name, (self._queue,), settings.heartbeat.lease_s)
        if lease is None:  # another worker was faster
            return min(SOON_S, settings.poll_s)
        self._runner.begin(lease)
        self._runner.give_back_late(settings.too_long_s)  # those that the new one stands before wait longer now
        return 0.0

    def _drive_engine(self) -> None:
        """Load, then step while there is work."""
        try:
            engine = self._start_engine()
        except RetouchError as error:
            self._heartbeat.report_problem(error.message)
            self._refusal = error
            self._device.started(running=False)
            if isinstance(error, Unavailable) or not self._device.others_run():
                raise
            logger.error("a model cannot run here; the others go on", model=self._queue, reason=error.message)
            self._heartbeat.fail(error.message)
            return
        self._device.started(running=True)
        self._runner.engine = engine
        self._lifecycle.advance(Phase.RUNNING)
        while not self._lifecycle.reached(Phase.STOPPING):
            idle_since = time.monotonic()
            found = engine.wait_for_work(self._settings.poll_s)
            expected_since = self._runner.on_their_way_since()
            if expected_since is not None:
                self._runner.seconds[WAITED] += time.monotonic() - max(idle_since, expected_since)
            if not found:
                continue
            with self._device.turn(self._seat, self._settings.poll_s) as mine:
                if mine:
                    self._tick(engine)

    def _start_engine(self) -> Engine:
        """Load the model and run its first edit."""
        pipeline = self._device.load(self._seat, self._load)
        with self._device.turn(self._seat):
            memory_bytes = self._settings.memory_bytes
            if memory_bytes is None and (budget := pipeline.state_budget_bytes()) is not None:
                memory_bytes = budget // self._device.models  # each engine admits edits without knowing of the others
            engine = Engine(pipeline, memory_bytes=memory_bytes)
            self._runner.policy = self._policy(engine, pipeline)
            known = self._service.costs(self._queue).get(pipeline.device_name)
            self._runner.costs = CostLearner(known, pipeline.state_memory)
            if self._warm_up is not None:
                self._warm_up(engine, pipeline, self._runner.costs, self._heartbeat.tell)
        self._heartbeat.device_name = pipeline.device_name
        self._heartbeat.facts = {"device": pipeline.device_name, **pipeline.facts}
        return engine

    def _tick(self, engine: Engine) -> None:
        try:
            began = time.monotonic()
            report = engine.step()
            self._runner.seconds[BUSY] += time.monotonic() - began
            self._runner.dispatch(report)
        except DeviceLost as loss:
            logger.exception("the device failed; this worker ends, so that a new one can use it")
            self._lifecycle.advance(Phase.STOPPING)  # first, so that none of the jobs is leased here again
            self._runner.lose_jobs(loss)
            raise
