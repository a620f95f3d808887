"""The loops of one worker, which runs one model: a thread leases jobs, one drives the engine, one keeps the leases.

Each model of a process has a worker and an engine of its own; the device alone is common, and they take turns at it
(`SharedDevice`). What becomes of a leased job is in `job_runner.py`, how leases are kept in `heartbeat.py`. What comes
of a job after its lease was lost is refused by the service's fence; nothing here decides states or money.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

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
from retouch.worker.staging import FindLora, ReadInput, no_lora

logger = structlog.get_logger(__name__)

SOON_S = 0.1
"""How long the head of the line may wait after what was predicted to be in its way has ended early."""

RECHECK_S = 0.05
"""How late a seat may notice that another one has lost its work without having had a turn."""

WORTH = 20
"""A model keeps the device for so many times what bringing its weights there took, while it has work: 5 % are lost."""


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


@dataclass(eq=False, slots=True)
class Seat:
    """One model at the device. busy: whether it has work now. used_s: device time, and what idle times are worth."""

    busy: Callable[[], bool]
    pipeline: Pipeline | None = None
    used_s: float = 0.0
    waiting: bool = False
    rests: bool = True

    @property
    def active(self) -> bool:
        return self.waiting or self.busy()


class SharedDevice:
    """One device under several models: loads them one after the other and says whose turn it is. Knows no jobs.

    Turns are single ticks of an engine, and models that have work get equal shares of the device's time, so a long edit
    of one does not hold up the other. Where the weights of all do not fit together, those of the model whose turn it is
    are on the device, and a turn then lasts for as long as bringing them there was worth it. What fits is the memory
    plan's matter. Safe from any thread; each seat is used by one.

    models: how many will load. swaps: whether only one of them may have its weights on the device at a time.
    """

    def __init__(self, models: int = 1, *, swaps: bool = False) -> None:
        self.models = models
        self.swaps = swaps
        self._seats: list[Seat] = []
        self._holder: Seat | None = None
        self._resident: Seat | None = None
        self._stays_until = 0.0
        self._began = 0.0
        self._to_load = models
        self._to_start = models
        self._running = 0
        self._loading = threading.Lock()
        self._changed = threading.Condition()

    def seat(self, busy: Callable[[], bool]) -> Seat:
        """A place for one model, taken before anything is loaded."""
        seat = Seat(busy)
        with self._changed:
            self._seats.append(seat)
        return seat

    def load(self, seat: Seat, load: Callable[[], Pipeline]) -> Pipeline:
        """Load one model while no other one loads, then wait until every one was tried. Raises what `load` raises."""
        try:
            with self._loading:
                seat.pipeline = load()
                if self.swaps:
                    seat.pipeline.leave_device()
        finally:
            with self._changed:
                self._to_load -= 1
                self._changed.notify_all()
        with self._changed:
            self._changed.wait_for(lambda: self._to_load == 0)
        return seat.pipeline

    def started(self, *, running: bool) -> None:
        """A model can run edits now, or never will."""
        with self._changed:
            self._to_start -= 1
            self._running += running
            self._changed.notify_all()

    def others_run(self) -> bool:
        """Whether any model can run edits, once it is known of all."""
        with self._changed:
            self._changed.wait_for(lambda: self._to_start == 0)
            return self._running > 0

    def none_runs(self) -> bool:
        """Whether it is known of every model that it cannot run edits."""
        with self._changed:
            return self._to_start == 0 and self._running == 0

    @contextlib.contextmanager
    def turn(self, seat: Seat, timeout_s: float | None = None) -> Iterator[bool]:
        """The device for the block; False, and not the device, when it was not there within `timeout_s`."""
        until = math.inf if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            if seat.rests:  # idle time is not saved up
                others = [other.used_s for other in self._seats if other is not seat and other.active]
                seat.used_s = max(seat.used_s, min(others, default=seat.used_s))
            seat.waiting, seat.rests = True, False
            while not (mine := self._holder is None and self._next() is seat) and time.monotonic() < until:
                self._changed.wait(RECHECK_S)
            seat.waiting = False
            if mine:
                self._holder, self._began = seat, time.perf_counter()
        if not mine:
            yield False
            return
        try:
            self._bring(seat)
            yield True
        finally:
            with self._changed:
                seat.used_s += time.perf_counter() - self._began
                self._holder = None
                self._changed.notify_all()

    def _next(self) -> Seat:
        """Who has used least of those that have work, though it may only be on its way back for the next turn."""
        for seat in self._seats:
            seat.rests = seat.rests or not seat.active
        active = [seat for seat in self._seats if seat.active]
        if self._resident in active and time.monotonic() < self._stays_until:
            assert self._resident is not None, "it is one of the seats"
            return self._resident
        return min(active, key=lambda seat: seat.used_s)

    def _bring(self, seat: Seat) -> None:
        """Have the seat's weights on the device, instead of another's."""
        if not self.swaps or self._resident is seat:
            return
        began = time.monotonic()
        if self._resident is not None and self._resident.pipeline is not None:
            self._resident.pipeline.leave_device()
        self._resident = seat
        assert seat.pipeline is not None, "a seat takes turns once its model is loaded"
        seat.pipeline.enter_device()
        now = time.monotonic()
        self._stays_until = now + WORTH * (now - began)
