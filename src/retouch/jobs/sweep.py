"""Rescues jobs from dead workers, ends them at their deadlines, and deletes jobs and files that have expired.

Any number of processes may sweep one database at once; each job is moved by one of them, in a transaction of
its own that first looks whether it is still to be moved. It starts no thread: `serve` calls it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

import structlog

from retouch.database import Database
from retouch.errors import EditTimeout, JobFinished, LeaseLost, StartTimeout, UnknownJob
from retouch.jobs import fair_queue, retention, store
from retouch.jobs.job import Clock, Job, JobState, Retention
from retouch.jobs.wakeups import CANCEL_TOPIC, JOB_TOPIC, WakeUps, queue_topic

logger = structlog.get_logger(__name__)

BATCH = 100
"""Most jobs of one kind that one sweep moves; the rest waits for the next second."""


@dataclass(frozen=True, slots=True)
class Swept:
    """How many jobs one sweep moved, by what happened to them; files: how many went whose own time was over."""

    requeued: int = 0
    worker_lost: int = 0
    cancelled: int = 0
    start_timeout: int = 0
    edit_timeout: int = 0
    deleted: int = 0
    files: int = 0


@dataclass(frozen=True, slots=True)
class SweepSettings:
    """run_timeout_s: of one attempt. max_attempts: after so many lost workers a job fails. delete_every_s:
    between two looks for what has expired.
    """

    run_timeout_s: float
    max_attempts: int
    delete_every_s: float


class Sweeper:
    """One process' sweeping. `delete_blobs` gets the keys of files whose job is about to be deleted, `sweep_blobs`
    deletes the files whose own time is over.
    """

    def __init__(
        self,
        database: Database,
        wakeups: WakeUps,
        settings: SweepSettings,
        *,
        life: Retention,
        delete_blobs: Callable[[Iterable[str]], None],
        sweep_blobs: Callable[[datetime], int],
        clock: Clock,
    ) -> None:
        self._database = database
        self._wakeups = wakeups
        self._settings = settings
        self._life = life
        self._delete_blobs = delete_blobs
        self._sweep_blobs = sweep_blobs
        self._clock = clock
        self._lock = threading.Lock()
        self._delete_at = clock()

    def sweep(self) -> Swept:
        """One round over everything, logged when it moved anything; see `Service.sweep`."""
        rescued = self._rescue()
        late, long = self._fail_late_starts(), self._fail_long_runs()
        if late or long or rescued.total():
            self._wakeups.publish(JOB_TOPIC)
        if long:
            self._wakeups.publish(CANCEL_TOPIC)  # their workers learn at once that they hold them no longer
        deleted, files = self._delete_expired() if self._time_to_delete() else (0, 0)
        swept = Swept(
            requeued=rescued[JobState.QUEUED],
            worker_lost=rescued[JobState.FAILED],
            cancelled=rescued[JobState.CANCELLED],
            start_timeout=late,
            edit_timeout=long,
            deleted=deleted,
            files=files,
        )
        if swept != Swept():
            logger.info("swept", **{name: count for name, count in asdict(swept).items() if count})
        return swept

    def _rescue(self) -> Counter[JobState]:
        """Move the jobs whose lease ran out; counts them by the state they are in then."""
        now = self._clock()
        with self._database.read() as connection:
            leases = store.expired_leases(connection, now, BATCH)
        rescued: Counter[JobState] = Counter()
        for lease in leases:
            with self._database.transaction() as connection:
                job = store.find_expired(connection, lease, now)
                if job is None:  # its worker or another sweep was first
                    continue
                end = self._life.end(job, now)
                state = store.end_attempt(connection, lease, job, self._settings.max_attempts, end)
            if state is JobState.QUEUED:
                self._wakeups.publish(queue_topic(lease.job.queue))
            rescued[state] += 1
        return rescued

    def _fail_late_starts(self) -> int:
        now, failed = self._clock(), 0
        failure = StartTimeout("The edit did not start in the time it was given.").failure
        with self._database.read() as connection:
            late = store.too_late_to_start(connection, now, BATCH)
        for job_id in late:
            with suppress(JobFinished, UnknownJob):  # started, cancelled or deleted meanwhile
                with self._database.transaction() as connection:
                    job = store.find(connection, job_id, lock=True)
                    store.end_waiting(connection, job, JobState.FAILED, self._life.end(job, now), failure)
                failed += 1
        return failed

    def _fail_long_runs(self) -> int:
        now, failed = self._clock(), 0
        with self._database.read() as connection:
            leases = store.overdue(connection, now, self._settings.run_timeout_s, BATCH)
        for lease in leases:
            failure = self._overdue(lease.job, now).failure
            with suppress(LeaseLost):  # it ended meanwhile
                with self._database.transaction() as connection:
                    store.fail(connection, lease, failure, self._life.end(lease.job, now))
                failed += 1
        return failed

    def _overdue(self, job: Job, now: datetime) -> EditTimeout:
        if job.end_by is not None and job.end_by <= now:
            return EditTimeout("The edit did not end in the time it was given.")
        limit_s = self._settings.run_timeout_s
        if job.run_timeout_s is not None:
            limit_s = min(limit_s, job.run_timeout_s)
        return EditTimeout(f"The edit ran longer than {limit_s:g} seconds.")

    def _time_to_delete(self) -> bool:
        with self._lock:
            now = self._clock()
            if now < self._delete_at:
                return False
            self._delete_at = now + timedelta(seconds=self._settings.delete_every_s)
            return True

    def _delete_expired(self) -> tuple[int, int]:
        """How many jobs and files went. Files first, rows second: after a crash in between the row is found again."""
        now = self._clock()
        deleted = 0
        while True:
            with self._database.read() as connection:
                jobs = store.expired(connection, now, BATCH)
                keys = retention.blobs_of(connection, jobs)
            self._delete_blobs(keys)
            with self._database.transaction() as connection:
                retention.remove(connection, [job.id for job in jobs], now)
            deleted += len(jobs)
            if len(jobs) < BATCH:
                break
        with self._database.read() as connection:
            untidy = fair_queue.untidy(connection)
        for queue in untidy:
            with self._database.transaction() as connection:
                fair_queue.tidy(connection, queue)
        with self._database.transaction() as connection:
            fair_queue.forget_idle_shares(connection)
        return deleted, self._sweep_blobs(now)
