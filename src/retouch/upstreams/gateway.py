"""The gateway of one process: takes hosted jobs from their queue, runs each on a thread, keeps their leases.

It is to hosted providers what a worker is to a device, and like a worker it holds no truth: when it dies, its leases
run out, and another one goes on from the rows of `attempt`. It runs in the `serve` process, for it only waits.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum

import structlog

from retouch.catalog import HOSTED
from retouch.errors import LeaseLost, Unavailable, UnknownJob
from retouch.jobs.attempts import AttemptState
from retouch.jobs.job import JobState
from retouch.jobs.wakeups import CANCEL_TOPIC, WakeUps, queue_topic
from retouch.upstreams.attempt_book import AttemptBook
from retouch.upstreams.edit_run import EditRun, Parts
from retouch.upstreams.waits import Cancelled, Lost, Stopping

logger = structlog.get_logger(__name__)

QUEUES = (HOSTED.name,)
DEVICE = "hosted providers"

HANG_UP_S = 2.0
"""How long a stop waits for those who have just been told to hang up."""


class WebhookVerdict(Enum):
    TAKEN = "taken"
    FORGED = "forged"
    UNKNOWN = "unknown"  #: there is no such attempt


@dataclass(frozen=True, slots=True)
class GatewayTimes:
    """In seconds. lease_s: of a lease, renewed after a third of it. poll_s: look for jobs this often when no wake-up
    comes. round_s: between two looks for cancels. beat_s: between two beats. stop_s: how long a stop waits for submits
    whose answer is not there yet, since it could not be told later whether they were taken.
    """

    lease_s: float = 15.0
    poll_s: float = 1.0
    round_s: float = 0.5
    beat_s: float = 3.0
    stop_s: float = 10.0
    outage_pause_s: float = 2.0


class Gateway:
    """`start`, and `stop` at the end; `wake` when there is news of an attempt. name: unique among all workers."""

    def __init__(self, name: str, parts: Parts, wakeups: WakeUps, times: GatewayTimes | None = None) -> None:
        self._name = name
        self._parts = parts
        self._wakeups = wakeups
        self._times = times or GatewayTimes()
        self._book = AttemptBook(parts.database, parts.clock)
        self._runs: dict[str, EditRun] = {}
        self._changed = threading.Condition()  # of _runs
        self._stopping = threading.Event()
        self._stopped = threading.Event()
        self._most = parts.routes().settings.max_in_flight
        self._pool = ThreadPoolExecutor(self._most, thread_name_prefix="edit")
        self._threads = [
            threading.Thread(target=self._guarded, args=(loop,), name=name, daemon=True)
            for name, loop in (("gateway-lease", self._lease_jobs), ("gateway-keep", self._keep_leases))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Give back what can be gone on with elsewhere, and wait a while for what cannot."""
        self._stopping.set()
        leasing, keeping = self._threads
        leasing.join(2 * self._times.poll_s + 1)
        for run in self._all():
            run.signal(Stopping)
        self._wait_for_runs(self._times.stop_s)
        for run in self._all():  # a thread that waits for an answer would keep the process from ending
            run.hang_up(anyway=True)
        self._wait_for_runs(HANG_UP_S)
        self._stopped.set()
        keeping.join(2 * self._times.round_s + 1)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _wait_for_runs(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._runs, seconds)

    @property
    def busy(self) -> int:
        """Edits in this process."""
        return len(self._runs)

    def wake(self, job_id: str) -> None:
        """There is news of one of the job's attempts, if it is here."""
        for run in self._all():
            if run.id == job_id:
                run.signals.wake()

    # --- the threads

    def _guarded(self, loop: Callable[[], None]) -> None:
        while not self._stopped.is_set():
            try:
                loop()
                return
            except Unavailable as error:
                logger.warning("the gateway has to wait", reason=error.message)
            except Exception:
                logger.exception("a loop of the gateway failed by a bug and begins anew")
            self._stopped.wait(self._times.outage_pause_s)

    def _lease_jobs(self) -> None:
        with contextlib.closing(self._wakeups.subscribe((queue_topic(HOSTED.name),))) as subscription:
            while not self._stopping.is_set():
                with self._changed:
                    if not self._changed.wait_for(lambda: len(self._runs) < self._most, self._times.poll_s):
                        continue
                service = self._parts.service
                there = service.head(HOSTED.name)
                lease = service.lease(self._name, QUEUES, self._times.lease_s) if there else None
                if lease is None:
                    subscription.wait(self._times.poll_s)
                    continue
                logger.info("job leased", job=lease.job.id, attempt=lease.job.attempt, model=lease.job.request.model)
                run = EditRun(self._parts, lease)
                with self._changed:
                    self._runs[run.key] = run
                if self._stopping.is_set():  # `stop` may have told the others already
                    run.signal(Stopping)
                self._pool.submit(self._run, run)

    def _run(self, run: EditRun) -> None:
        try:
            run.run()
        finally:
            with self._changed:
                self._runs.pop(run.key, None)
                self._changed.notify_all()

    def _keep_leases(self) -> None:
        """Renew, hear of cancels, and let it be known that hosted jobs are served."""
        service = self._parts.service
        renewed: dict[str, float] = {}
        beat_at = 0.0
        with contextlib.closing(self._wakeups.subscribe((CANCEL_TOPIC,))) as subscription:
            while not self._stopped.is_set():
                now = time.monotonic()
                if now >= beat_at:
                    service.beat(self._name, QUEUES, DEVICE, "ready")
                    beat_at = now + self._times.beat_s
                runs = {run.key: run for run in self._all()}
                renewed = {key: renewed.get(key, now) for key in runs}
                for key, run in runs.items():
                    if now - renewed[key] < self._times.lease_s / 3:
                        continue
                    try:
                        if service.renew(run.lease, self._times.lease_s):
                            run.signal(Cancelled)
                    except (LeaseLost, UnknownJob):
                        run.signal(Lost)
                    renewed[key] = now
                subscription.wait(self._times.round_s)
                self._hear_cancels()

    def _hear_cancels(self) -> None:
        runs = self._all()
        if not runs:
            return
        jobs = self._parts.service.get_jobs([run.id for run in runs])
        for run in runs:
            job = jobs.get(run.id)
            if job is None or (job.state is not JobState.RUNNING and run.key in self._runs):
                run.signal(Lost)
            elif job.cancel_requested:
                run.signal(Cancelled)

    def _all(self) -> tuple[EditRun, ...]:
        with self._changed:
            return tuple(self._runs.values())

    # --- webhooks

    def webhook(self, attempt_id: str, headers: Mapping[str, str], body: bytes) -> WebhookVerdict:
        """A provider says something of an attempt; headers in lower case. It only makes the next look come sooner.

        A submit whose answer was lost gets its name by it. Nothing it says is believed, and one that names another job
        than the answer did, or comes late, changes nothing.
        """
        attempt = self._book.read(attempt_id)
        if attempt is None:
            return WebhookVerdict.UNKNOWN
        place = self._parts.routes().sent_to(attempt.target, attempt.account_id)
        if place is None:
            return WebhookVerdict.TAKEN
        target, connection = place
        ticket = connection.upstream.verify_webhook(target.model, headers, body)
        if ticket is None:
            return WebhookVerdict.FORGED
        if attempt.state in (AttemptState.SENDING, AttemptState.UNKNOWN) and attempt.settled_at is None:
            self._book.accept(attempt, ticket)
        self.wake(attempt.job_id)  # another server that has the job sees it at its next look
        return WebhookVerdict.TAKEN
