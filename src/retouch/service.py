"""The one owner of a job's state: each verb is one transaction, and wakes those who wait once it is committed.

It holds no policy: which state follows which is in `jobs/job.py`, who is next in `jobs/order.py`, what a model
allows and costs in `catalog.py`. It is synchronous and thread-safe; async callers use a thread.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection

from retouch.accounts import ledger
from retouch.accounts.keys import Account
from retouch.catalog import Catalog
from retouch.database import Database
from retouch.edit import Delivery, EditOutput, EditRequest, Notice, Usage
from retouch.errors import (
    DatabaseUnavailable,
    EditTimeout,
    Failure,
    JobFinished,
    LeaseLost,
    QueueFull,
    StartTimeout,
    StorageUnavailable,
    UnknownFile,
    UnknownJob,
    WorkerLost,
)
from retouch.jobs import events, liveness, order, outbox, retention, store
from retouch.jobs import idempotency as idempotency_keys
from retouch.jobs.job import (
    MAX_ATTEMPTS,
    PRIORITY_NORMAL,
    Clock,
    Idempotency,
    Job,
    JobEvent,
    JobState,
    Lease,
    state_after_lost_lease,
    utc_now,
)
from retouch.jobs.liveness import LiveWorker, QueueStatistics
from retouch.jobs.wakeups import CANCEL_TOPIC, JOB_TOPIC, WakeUps, queue_topic
from retouch.storage.blobs import DEFAULT_TTL_S, Blobs

SWEEP_BATCH = 100
"""Most jobs of one kind that one sweep touches."""


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """retention_s: life of a finished job and its files, when the caller did not say. shortest_retention_s: a
    job's row stays at least this long, so that its caller can read the end of it. max_waiting_per_account: in
    all queues together. run_timeout_s: of one attempt. tidy_every_s: between two rounds of deleting.
    """

    retention_s: float = DEFAULT_TTL_S
    shortest_retention_s: float = 600.0
    max_waiting_per_account: int = 10_000
    run_timeout_s: float = 3600.0
    max_attempts: int = MAX_ATTEMPTS
    tidy_every_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Submitted:
    """An accepted job. replayed: the idempotency key joined a job that was there already."""

    job: Job
    notices: tuple[Notice, ...]
    replayed: bool


@dataclass(frozen=True, slots=True)
class Swept:
    """How many jobs one sweep moved, by what happened to them."""

    requeued: int = 0
    worker_lost: int = 0
    cancelled: int = 0
    start_timeout: int = 0
    edit_timeout: int = 0
    deleted: int = 0
    blobs_deleted: int = 0


class Service:
    """Submit, read, cancel; lease, renew, finish; sweep. Raises DatabaseUnavailable from every verb."""

    def __init__(  # noqa: PLR0917  the parts it is made of
        self,
        database: Database,
        blobs: Blobs,
        catalog: Catalog,
        wakeups: WakeUps,
        settings: ServiceSettings | None = None,
        clock: Clock = utc_now,
    ) -> None:
        self.wakeups = wakeups
        self._database = database
        self._blobs = blobs
        self._catalog = catalog
        self._settings = settings or ServiceSettings()
        self._clock = clock
        self._tidy_at = clock()
        self._tidying = threading.Lock()

    # --- the caller's side

    def submit(
        self,
        account: Account,
        request: EditRequest,
        delivery: Delivery,
        *,
        priority: int = PRIORITY_NORMAL,
        start_timeout_s: float | None = None,
        max_queue_length: int | None = None,
        idempotency: Idempotency | None = None,
    ) -> Submitted:
        """Accept an edit, or raise InvalidRequest, UnknownModel, QueueFull or IdempotencyKeyReused.

        start_timeout_s: fail with `start_timeout` when it has not started by then. max_queue_length: refuse
        when more jobs than this wait in the queue already.
        """
        route = self._catalog.route(request.model)
        completed, notices = route.complete(request)
        now = self._clock()
        job = Job(
            id=str(uuid.uuid4()),
            account_id=account.id,
            queue=route.queue,
            state=JobState.QUEUED,
            request=completed,
            delivery=delivery,
            sequence=0,
            priority=priority,
            attempt=0,
            cancel_requested=False,
            step=0,
            steps=(completed.steps or 0) * completed.num_images,
            created_at=now,
            start_by=None if start_timeout_s is None else now + timedelta(seconds=start_timeout_s),
            notices=notices,
        )
        with self._database.transaction() as connection:
            if idempotency is not None:
                known = idempotency_keys.remember(connection, account.id, idempotency, job.id, now)
                if known != job.id:
                    return Submitted(store.find(connection, known), notices, replayed=True)
            if max_queue_length is not None:
                _refuse_above(max_queue_length, order.length(connection, route.queue), f"wait for '{request.model}'")
            job = store.enqueue(connection, job, key_id=account.key_id, weight=account.weight)
            waiting = order.account_waiting(connection, account.id)
            _refuse_above(self._settings.max_waiting_per_account, waiting, "of this account wait")
        self._wake(job.queue)
        return Submitted(job, notices, replayed=False)

    def get(self, account: Account | None, job_id: str) -> Job:
        """The job; UnknownJob when there is none or it is another account's. account None: an internal reader."""
        with self._database.read() as connection:
            return _owned(store.find(connection, job_id), account)

    def get_many(self, job_ids: Iterable[str]) -> Mapping[str, tuple[Job, int]]:
        """Jobs with their positions, by id, for internal readers; ids that do not exist are left out."""
        wanted = list(job_ids)
        if not wanted:
            return {}
        with self._database.read() as connection:
            jobs = store.find_many(connection, wanted)
            return {job.id: (job, _position(connection, job)) for job in jobs.values()}

    def have_ended(self, job_ids: Iterable[str]) -> Mapping[str, bool]:
        """Which of these jobs have ended; ids that do not exist are left out. Cheaper than reading the jobs."""
        with self._database.read() as connection:
            return store.have_ended(connection, job_ids)

    def position(self, job: Job) -> int:
        """How many jobs are before a waiting one in its queue; 0 is next, and 0 for a job that does not wait."""
        with self._database.read() as connection:
            return _position(connection, job)

    def events(self, job_id: str, *, after: int = 0) -> tuple[JobEvent, ...]:
        """The job's history after an event's id, oldest first."""
        with self._database.read() as connection:
            return events.read(connection, job_id, after=after)

    def events_many(self, after: Mapping[str, int]) -> tuple[JobEvent, ...]:
        """The histories of several jobs, each after its own event id, oldest first."""
        if not after:
            return ()
        with self._database.read() as connection:
            found = events.read_many(connection, after, after=min(after.values()))
        return tuple(event for event in found if event.id > after[event.job_id])

    def recent(self, account: Account, limit: int) -> tuple[Job, ...]:
        """The account's newest jobs, newest first."""
        with self._database.read() as connection:
            return store.recent(connection, account.id, limit)

    def cancel(self, account: Account, job_id: str) -> Job:
        """Cancel a waiting job now, or ask the worker of a running one; JobFinished when it has ended.

        Asking twice is no error.
        """
        now = self._clock()
        with self._database.transaction() as connection:
            job = _owned(store.find(connection, job_id, lock=True), account)
            if job.state.final:
                raise JobFinished(f"The job '{job.id}' has already ended: {job.state.value}.")
            if job.state is JobState.RUNNING:
                job = store.request_cancel(connection, job)
            else:
                job = self._end_waiting(connection, job, JobState.CANCELLED, now)
        self.wakeups.publish(JOB_TOPIC)
        if job.state is JobState.RUNNING:
            self.wakeups.publish(CANCEL_TOPIC)
        return job

    def forget_payload(self, job_id: str) -> None:
        """Delete what a finished job was given and made; its state and its usage stay. Twice is no error."""
        with self._database.transaction() as connection:
            job = store.find(connection, job_id, lock=True)
            if not job.state.final or job.payload_deleted:
                return
            keys = retention.blobs_of(connection, (job,))
            store.forget_payload(connection, job)
            events.forget(connection, job_id)
        self._delete_blobs(keys)

    # --- the worker's side

    def lease(self, worker: str, queues: Sequence[str], lease_s: float) -> Lease | None:
        """The next job of the first queue that has one, or None."""
        for queue in queues:
            if not self._has_waiting(queue):
                continue
            with self._database.transaction() as connection:
                lease = store.claim(connection, queue, worker, self._clock(), lease_s)
            if lease is not None:
                self.wakeups.publish(JOB_TOPIC)
                return lease
        return None

    def renew(self, lease: Lease, lease_s: float) -> bool:
        """Keep the lease for `lease_s` from now. True when the owner asked to cancel; LeaseLost."""
        with self._database.transaction() as connection:
            return store.renew(connection, lease, self._clock() + timedelta(seconds=lease_s))

    def progress(
        self, lease: Lease, *, step: int, steps: int, logs: Sequence[str] = (), preview_blob: str | None = None
    ) -> bool:
        """Tell how far the edit is, at most four times a second. True when the owner asked to cancel; LeaseLost."""
        new: list[events.NewEvent] = [("log", {"level": "INFO", "message": line}) for line in logs]
        new.append(("step", {"step": step, "steps": steps}))
        if preview_blob is not None:
            new.append(("preview", {"blob": preview_blob}))
        with self._database.transaction() as connection:
            cancel = store.progress(connection, lease, step=step, steps=steps)
            events.append(connection, lease.job.id, self._clock(), *new)
        self.wakeups.publish(JOB_TOPIC)
        return cancel

    def finish(self, lease: Lease, output: EditOutput, usage: Usage) -> Job:
        """The edit is done: state, price, usage entry and webhook in one transaction. LeaseLost."""
        route = self._catalog.route(lease.job.request.model)
        priced = replace(usage, price_microusd=route.price_microusd(usage))
        now = self._clock()
        with self._database.transaction() as connection:
            job = store.finish(connection, lease, output, priced, now=now, expires_at=self._expiry(lease.job, now))
            key_id = store.key_of(connection, job.id)
            entry = ledger.UsageEntry(job.id, job.account_id, key_id, job.request.model, priced, now)
            ledger.record(connection, entry)
            outbox.promise(connection, job, now)
        self.wakeups.publish(JOB_TOPIC)
        return job

    def fail(self, lease: Lease, failure: Failure) -> Job:
        """The edit cannot be done. Nothing is billed. LeaseLost."""
        now = self._clock()
        with self._database.transaction() as connection:
            job = self._fail_running(connection, lease, failure, now)
        self.wakeups.publish(JOB_TOPIC)
        return job

    def acknowledge_cancel(self, lease: Lease) -> Job:
        """The worker has stopped the edit on its owner's wish. Nothing is billed. LeaseLost."""
        now = self._clock()
        with self._database.transaction() as connection:
            job = self._cancel_running(connection, lease, now)
        self.wakeups.publish(JOB_TOPIC)
        return job

    def release(self, lease: Lease) -> None:
        """Give the job back, as if it had not been leased: its old place, no attempt used. LeaseLost.

        A job whose owner asked to cancel ends here.
        """
        now = self._clock()
        with self._database.transaction() as connection:
            job = store.find(connection, lease.job.id, lock=True)
            if job.cancel_requested:
                self._cancel_running(connection, lease, now)
            else:
                store.requeue(connection, lease, now, costs_attempt=False)
        self._wake(lease.job.queue)

    def beat(self, worker: str, queues: Sequence[str], device: str, state: str) -> None:
        """A worker is alive; state `loading` or `ready`. Every few seconds."""
        with self._database.transaction() as connection:
            liveness.beat(connection, LiveWorker(worker, tuple(queues), device, state, self._clock()))

    # --- housekeeping

    def sweep(self) -> Swept:
        """End or requeue what nobody else will, and delete what has expired. About once a second.

        Several processes may sweep one database; each job is moved by one of them.
        """
        swept = self._rescue()
        swept = replace(swept, start_timeout=self._fail_late_starts(), edit_timeout=self._fail_long_runs())
        if self._tidy_now():
            deleted, blobs_deleted = self._delete_expired()
            swept = replace(swept, deleted=deleted, blobs_deleted=blobs_deleted)
        return swept

    def ready(self) -> str | None:
        """None when an edit would be run now, else the reason why not, in a sentence."""
        try:
            with self._database.read() as connection:
                workers = liveness.live(connection, self._clock())
            next(iter(self._blobs.keys("outputs")), None)
        except (DatabaseUnavailable, StorageUnavailable) as error:
            return error.message
        return liveness.unready_reason(workers, self._catalog.queues)

    def statistics(self) -> QueueStatistics:
        """Jobs by queue and state, and the workers that are alive."""
        with self._database.read() as connection:
            return liveness.statistics(connection, self._clock())

    def _has_waiting(self, queue: str) -> bool:
        with self._database.read() as connection:
            return store.any_waiting(connection, queue)

    def _rescue(self) -> Swept:
        now = self._clock()
        with self._database.read() as connection:
            leases = store.expired_leases(connection, now, SWEEP_BATCH)
        ends = [self._rescue_one(lease, now) for lease in leases]
        if ends:
            self.wakeups.publish(JOB_TOPIC)
        return Swept(
            requeued=ends.count(JobState.QUEUED),
            worker_lost=ends.count(JobState.FAILED),
            cancelled=ends.count(JobState.CANCELLED),
        )

    def _rescue_one(self, lease: Lease, now: datetime) -> JobState | None:
        """Move one job whose lease ran out; None when somebody else moved it first."""
        try:
            with self._database.transaction() as connection:
                job = store.find(connection, lease.job.id, lock=True)
                if not store.still_expired(connection, lease, now):
                    return None
                state = state_after_lost_lease(job, self._settings.max_attempts)
                if state is JobState.QUEUED:
                    store.requeue(connection, lease, now, costs_attempt=True)
                elif state is JobState.CANCELLED:
                    self._cancel_running(connection, lease, now)
                else:
                    lost = WorkerLost(f"The worker died on each of {job.attempt} attempts.")
                    self._fail_running(connection, lease, lost.failure, now)
        except (LeaseLost, UnknownJob):
            return None
        if state is JobState.QUEUED:
            self.wakeups.publish(queue_topic(lease.job.queue))
        return state

    def _fail_late_starts(self) -> int:
        now = self._clock()
        with self._database.read() as connection:
            late = store.too_late_to_start(connection, now, SWEEP_BATCH)
        return sum(self._fail_late_start(job_id, now) for job_id in late)

    def _fail_late_start(self, job_id: str, now: datetime) -> bool:
        failure = StartTimeout("The edit did not start in the time its caller allowed.").failure
        try:
            with self._database.transaction() as connection:
                job = store.find(connection, job_id, lock=True)
                self._end_waiting(connection, job, JobState.FAILED, now, failure)
        except (JobFinished, UnknownJob):
            return False
        self.wakeups.publish(JOB_TOPIC)
        return True

    def _fail_long_runs(self) -> int:
        now, limit_s = self._clock(), self._settings.run_timeout_s
        with self._database.read() as connection:
            leases = store.running_since(connection, now - timedelta(seconds=limit_s), SWEEP_BATCH)
        failed = 0
        for lease in leases:
            try:
                self.fail(lease, EditTimeout(f"The edit ran longer than {limit_s:g} seconds.").failure)
                failed += 1
            except LeaseLost:
                continue
        return failed

    def _tidy_now(self) -> bool:
        with self._tidying:
            now = self._clock()
            if now < self._tidy_at:
                return False
            self._tidy_at = now + timedelta(seconds=self._settings.tidy_every_s)
            return True

    def _delete_expired(self) -> tuple[int, int]:
        """Delete files first and rows second: a crash between leaves a row that is found again."""
        now = self._clock()
        deleted = 0
        while True:
            with self._database.read() as connection:
                jobs = store.expired(connection, now, SWEEP_BATCH)
                keys = retention.blobs_of(connection, jobs)
            self._delete_blobs(keys)
            with self._database.transaction() as connection:
                retention.remove(connection, [job.id for job in jobs], now)
            deleted += len(jobs)
            if len(jobs) < SWEEP_BATCH:
                break
        for queue in self._catalog.queues:
            with self._database.transaction() as connection:
                order.tidy(connection, queue)
        return deleted, self._blobs.sweep(now)

    # --- what several verbs do

    def _expiry(self, job: Job, now: datetime) -> datetime:
        asked_s = job.delivery.retention_s
        life_s = self._settings.retention_s if asked_s is None else asked_s
        return now + timedelta(seconds=max(life_s, self._settings.shortest_retention_s))

    def _end_waiting(
        self, connection: Connection, job: Job, state: JobState, now: datetime, failure: Failure | None = None
    ) -> Job:
        ended = store.end_waiting(connection, job, state, now=now, expires_at=self._expiry(job, now), failure=failure)
        outbox.promise(connection, ended, now)
        return ended

    def _fail_running(self, connection: Connection, lease: Lease, failure: Failure, now: datetime) -> Job:
        job = store.fail(connection, lease, failure, now=now, expires_at=self._expiry(lease.job, now))
        outbox.promise(connection, job, now)
        return job

    def _cancel_running(self, connection: Connection, lease: Lease, now: datetime) -> Job:
        job = store.cancel_running(connection, lease, now=now, expires_at=self._expiry(lease.job, now))
        outbox.promise(connection, job, now)
        return job

    def _wake(self, queue: str) -> None:
        self.wakeups.publish(queue_topic(queue))
        self.wakeups.publish(JOB_TOPIC)

    def _delete_blobs(self, keys: Iterable[str]) -> None:
        for key in keys:
            with suppress(UnknownFile):  # a key that no store of ours could have made
                self._blobs.delete(key)


def _owned(job: Job, account: Account | None) -> Job:
    if account is not None and job.account_id != account.id:
        raise UnknownJob(f"There is no job '{job.id}'.")
    return job


def _position(connection: Connection, job: Job) -> int:
    return store.position(connection, job) if job.state is JobState.QUEUED else 0


def _refuse_above(most: int, waiting: int, where: str) -> None:
    if waiting > most:
        raise QueueFull(f"{waiting} jobs {where} already; at most {most} are allowed.", waiting=waiting, allowed=most)
