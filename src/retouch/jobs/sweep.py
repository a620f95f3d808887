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
from typing import Any

import structlog
from sqlalchemy import Connection, Select, delete, or_, select

from retouch.database import Database
from retouch.errors import EditTimeout, JobFinished, LeaseLost, StartTimeout, UnknownJob
from retouch.jobs import fair_queue, idempotency, liveness, store
from retouch.jobs.fair_queue import QUEUED
from retouch.jobs.job import Clock, Job, JobState, Lease
from retouch.jobs.store import FENCE, RUNNING, Retention, fence_of
from retouch.jobs.tables import job, job_event
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
        deleted, files = self._delete_expired()
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
        ran_out = job.c.lease_until < now
        leases = self._leases(select(job).where(RUNNING, ran_out).order_by(job.c.lease_until))
        still = select(job).where(*FENCE, ran_out).with_for_update()
        rescued: Counter[JobState] = Counter()
        for lease in leases:
            with self._database.transaction() as connection:
                row = connection.execute(still, fence_of(lease)).one_or_none()
                if row is None:  # its worker or another sweep was first
                    continue
                lost = store.job_of(row)
                end = self._life.end(lost, now)
                state = store.end_attempt(connection, lease, lost, self._settings.max_attempts, end)
            if state is JobState.QUEUED:
                self._wakeups.publish(queue_topic(lease.job.queue))
            rescued[state] += 1
        return rescued

    def _fail_late_starts(self) -> int:
        now, failed = self._clock(), 0
        failure = StartTimeout("The edit did not start in the time it was given.").failure
        query = select(job.c.id).where(QUEUED, job.c.start_by <= now).order_by(job.c.start_by).limit(BATCH)
        with self._database.read() as connection:
            late = connection.execute(query).scalars().all()
        for job_id in late:
            with suppress(JobFinished, UnknownJob):  # started, cancelled or deleted meanwhile
                with self._database.transaction() as connection:
                    waiting = store.find(connection, job_id, lock=True)
                    store.end_waiting(connection, waiting, JobState.FAILED, self._life.end(waiting, now), failure)
                failed += 1
        return failed

    def _fail_long_runs(self) -> int:
        """Past the server's limit of one run, or past their own deadlines, whatever their workers report."""
        now, failed = self._clock(), 0
        limit_s = self._settings.run_timeout_s
        begun_too_early = job.c.started_at < now - timedelta(seconds=limit_s)
        past = or_(begun_too_early, job.c.run_by <= now, job.c.end_by <= now)
        for lease in self._leases(select(job).where(RUNNING, past)):
            if lease.job.end_by is not None and lease.job.end_by <= now:
                timeout = EditTimeout("The edit did not end in the time it was given.")
            else:
                most_s = limit_s if lease.job.run_timeout_s is None else min(limit_s, lease.job.run_timeout_s)
                timeout = EditTimeout(f"The edit ran longer than {most_s:g} seconds.")
            with suppress(LeaseLost):  # it ended meanwhile
                with self._database.transaction() as connection:
                    store.fail(connection, lease, timeout.failure, self._life.end(lease.job, now))
                failed += 1
        return failed

    def _leases(self, query: Select[Any]) -> list[Lease]:
        """Those of running jobs, at most BATCH, as the fence sees them."""
        with self._database.read() as connection:
            rows = connection.execute(query.limit(BATCH))
            return [Lease(store.job_of(row), row.worker, row.claims) for row in rows]

    def _delete_expired(self) -> tuple[int, int]:
        """How many jobs and files went; none as long as the last look was not `delete_every_s` ago."""
        now = self._clock()
        with self._lock:
            if now < self._delete_at:
                return 0, 0
            self._delete_at = now + timedelta(seconds=self._settings.delete_every_s)
        expired = select(job).where(job.c.expires_at <= now).order_by(job.c.expires_at).limit(BATCH)
        deleted = 0
        while True:
            with self._database.read() as connection:
                ended = [store.job_of(row) for row in connection.execute(expired)]
                keys = files_of(connection, ended)
            # Files first, rows second: after a crash in between the row is found again.
            self._delete_blobs(keys)
            with self._database.transaction() as connection:
                ids = [each.id for each in ended]
                # Events and webhooks go with the row, usage stays; what another sweep is deleting is left to it.
                mine = select(job.c.id).where(job.c.id.in_(ids), job.c.finished_at.is_not(None))
                connection.execute(delete(job).where(job.c.id.in_(mine.with_for_update(skip_locked=True))))
                idempotency.forget(connection, ids, now)
                liveness.prune(connection, now)
            deleted += len(ended)
            if len(ended) < BATCH:
                break
        with self._database.read() as connection:
            untidy = fair_queue.untidy(connection)
        for queue in untidy:
            with self._database.transaction() as connection:
                fair_queue.tidy(connection, queue)
        with self._database.transaction() as connection:
            fair_queue.forget_idle_shares(connection)
        return deleted, self._sweep_blobs(now)


def files_of(connection: Connection, jobs: Iterable[Job]) -> tuple[str, ...]:
    """Keys of the files that belong to these jobs alone: outputs, previews, and images that came in the request.

    A file that the owner uploaded to use it again, or that another job made, is not the job's own; it goes when its own
    time is over.
    """
    jobs = tuple(jobs)
    keys: list[str] = []
    for each in jobs:
        keys += (image.blob for image in each.request.inputs if image.blob is not None and image.owned)
        keys += (image.blob for image in (each.output.images if each.output else ()))
    query = select(job_event.c.data).where(
        job_event.c.job_id.in_([each.id for each in jobs]), job_event.c.kind == "preview"
    )
    previews = (str(data["blob"]) for data in connection.execute(query).scalars())
    return tuple(dict.fromkeys([*keys, *previews]))
