"""What nobody else does for a job: rescue it from a dead worker, end it at its deadline, delete it in the end.

Any number of processes may sweep one database at once; each job is moved by one of them, in a transaction of
its own that first looks whether it is still to be moved. It starts no thread: `serve` calls it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from retouch.database import Database
from retouch.errors import EditTimeout, Failure, JobFinished, LeaseLost, StartTimeout, UnknownJob, WorkerLost
from retouch.jobs import fair_queue, retention, store
from retouch.jobs.job import Clock, JobState, Lease, state_after_lost_lease
from retouch.jobs.retention import Retention
from retouch.jobs.wakeups import JOB_TOPIC, WakeUps, queue_topic

BATCH = 100
"""Most jobs of one kind that one sweep moves; the rest waits for the next second."""


@dataclass(frozen=True, slots=True)
class Swept:
    """How many jobs one sweep moved, by what happened to them."""

    requeued: int = 0
    worker_lost: int = 0
    cancelled: int = 0
    start_timeout: int = 0
    edit_timeout: int = 0
    deleted: int = 0


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
        """One round over everything; see `Service.sweep`."""
        swept = self._rescue_all()
        swept = replace(swept, start_timeout=self._fail_late_starts(), edit_timeout=self._fail_long_runs())
        return replace(swept, deleted=self._delete_expired()) if self._time_to_delete() else swept

    def _rescue_all(self) -> Swept:
        now = self._clock()
        with self._database.read() as connection:
            leases = store.expired_leases(connection, now, BATCH)
        ends = [self._rescue(lease, now) for lease in leases]
        if ends:
            self._wakeups.publish(JOB_TOPIC)
        return Swept(
            requeued=ends.count(JobState.QUEUED),
            worker_lost=ends.count(JobState.FAILED),
            cancelled=ends.count(JobState.CANCELLED),
        )

    def _rescue(self, lease: Lease, now: datetime) -> JobState | None:
        """Move one job whose lease ran out; None when its worker or another sweep was first."""
        expires_at = self._life.expiry(lease.job, now)
        with self._database.transaction() as connection:
            job = store.find_expired(connection, lease, now)
            if job is None:
                return None
            state = state_after_lost_lease(job, self._settings.max_attempts)
            if state is JobState.QUEUED:
                store.requeue(connection, lease, now, costs_attempt=True)
            elif state is JobState.CANCELLED:
                store.cancel_running(connection, lease, now=now, expires_at=expires_at)
            else:
                lost = WorkerLost(f"The worker was lost on each of {job.attempt} attempts.")
                store.fail(connection, lease, lost.failure, now=now, expires_at=expires_at)
        if state is JobState.QUEUED:
            self._wakeups.publish(queue_topic(lease.job.queue))
        return state

    def _fail_late_starts(self) -> int:
        now = self._clock()
        with self._database.read() as connection:
            late = store.too_late_to_start(connection, now, BATCH)
        failed = sum(self._fail_late_start(job_id, now) for job_id in late)
        if failed:
            self._wakeups.publish(JOB_TOPIC)
        return failed

    def _fail_late_start(self, job_id: str, now: datetime) -> bool:
        failure = StartTimeout("The edit did not start in the time it was given.").failure
        try:
            with self._database.transaction() as connection:
                job = store.find(connection, job_id, lock=True)
                expires_at = self._life.expiry(job, now)
                store.end_waiting(connection, job, JobState.FAILED, now=now, expires_at=expires_at, failure=failure)
        except (JobFinished, UnknownJob):  # started, cancelled or deleted meanwhile
            return False
        return True

    def _fail_long_runs(self) -> int:
        now, limit_s = self._clock(), self._settings.run_timeout_s
        failure = EditTimeout(f"The edit ran longer than {limit_s:g} seconds.").failure
        with self._database.read() as connection:
            leases = store.running_since(connection, now - timedelta(seconds=limit_s), BATCH)
        failed = sum(self._fail_long_run(lease, now, failure) for lease in leases)
        if failed:
            self._wakeups.publish(JOB_TOPIC)
        return failed

    def _fail_long_run(self, lease: Lease, now: datetime, failure: Failure) -> bool:
        try:
            with self._database.transaction() as connection:
                store.fail(connection, lease, failure, now=now, expires_at=self._life.expiry(lease.job, now))
        except LeaseLost:  # it ended meanwhile
            return False
        return True

    def _time_to_delete(self) -> bool:
        with self._lock:
            now = self._clock()
            if now < self._delete_at:
                return False
            self._delete_at = now + timedelta(seconds=self._settings.delete_every_s)
            return True

    def _delete_expired(self) -> int:
        """Files first, rows second: after a crash between the two the row is found again."""
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
        self._tidy_lines()
        self._sweep_blobs(now)
        return deleted

    def _tidy_lines(self) -> None:
        with self._database.read() as connection:
            untidy = fair_queue.untidy(connection)
        for queue in untidy:
            with self._database.transaction() as connection:
                fair_queue.tidy(connection, queue)
        with self._database.transaction() as connection:
            fair_queue.forget_idle_shares(connection)
