"""The one owner of a job's state: each verb is one transaction, and wakes those who wait once it is committed.

It holds no policy: which state follows which is in `jobs/job.py`, who is next in `jobs/fair_queue.py`, what a model
allows and costs in `catalog/`, what an edit takes of a device in `engine/cost.py`, how long it still will in
`estimates.py`. It is synchronous and thread-safe; async callers use a thread.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Protocol

from sqlalchemy import Connection

from retouch.accounts import ledger
from retouch.accounts.keys import Account
from retouch.catalog import HOSTED, Catalog, Route
from retouch.database import Database
from retouch.edit import Bucket, Delivery, EditOutput, EditRequest, Expansion, Notice, Usage
from retouch.engine.cost import Cost, QueueCosts
from retouch.errors import (
    DatabaseUnavailable,
    Failure,
    InvalidRequest,
    JobFinished,
    JobNotFinished,
    QueueFull,
    StorageUnavailable,
    Unavailable,
    UnknownFile,
    UnknownJob,
)
from retouch.estimates import Estimates, Snapshot
from retouch.jobs import (
    attempts,
    breakers,
    caller_buckets,
    device_costs,
    fair_queue,
    history,
    liveness,
    store,
)
from retouch.jobs import idempotency as idempotency_keys
from retouch.jobs.fair_queue import Place
from retouch.jobs.job import (
    MAX_ATTEMPTS,
    MAX_DEVICE_LOSSES,
    PRIORITY_NORMAL,
    Clock,
    Idempotency,
    Job,
    JobEvent,
    JobState,
    Lease,
    Preview,
    QueueLoad,
    utc_now,
)
from retouch.jobs.liveness import LiveWorker, QueueStatistics
from retouch.jobs.store import End, Predicted, Retention
from retouch.jobs.sweep import Sweeper, SweepSettings, Swept, files_of
from retouch.jobs.wakeups import CANCEL_TOPIC, JOB_TOPIC, WakeUps, queue_topic
from retouch.storage.blobs import DEFAULT_TTL_S, Blobs

FAILURES_FRESH_S = 2.0
"""How long a process goes by what it has read of models that cannot run."""

CANCELLED_AT_ONCE = 50
"""Jobs cancelled by one transaction, so that others get their turn to write in between."""


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """retention_s: life of an ended job and its files, when the caller named none. shortest_retention_s: its
    row stays at least this long, so that its caller can read how it ended. max_wait_s: a job that no worker
    has taken by then fails. max_waiting_per_account: jobs, in all queues together. run_timeout_s: of one
    attempt. delete_every_s: between two looks for what has expired.
    """

    retention_s: float = DEFAULT_TTL_S
    shortest_retention_s: float = 600.0
    max_wait_s: float = DEFAULT_TTL_S
    max_waiting_per_account: int = 10_000
    run_timeout_s: float = 3600.0
    max_attempts: int = MAX_ATTEMPTS
    delete_every_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Submitted:
    """An accepted job. replayed: the idempotency key joined a job that was there already."""

    job: Job
    notices: tuple[Notice, ...]
    replayed: bool


@dataclass(frozen=True, slots=True)
class HostedStatistics:
    """attempts: target, state, how many, what they cost in millionths of a US dollar. now: by the service's clock."""

    attempts: tuple[tuple[str, str, int, int], ...]
    breakers: tuple[breakers.Breaker, ...]
    now: datetime


class Dispatch(Protocol):
    """Decides where an edit of a model is made that may run here or go to a hosted provider."""

    def __call__(self, account: Account, request: EditRequest, local_wait_s: Callable[[], float] | None) -> bool:
        """Whether it goes to a provider. Raises InvalidRequest when no target takes it.

        local_wait_s: how long it would wait here; raises InvalidRequest when it cannot run here, None when nothing can.
        """


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
        dispatch: Dispatch | None = None,
    ) -> None:
        """dispatch: for models that lead to upstreams."""
        self.wakeups = wakeups
        self._dispatch = dispatch
        self._database = database
        self._blobs = blobs
        self._catalog = catalog
        self._settings = settings = settings or ServiceSettings()
        self._life = Retention(settings.retention_s, settings.shortest_retention_s)
        self._clock = clock
        self._costs = QueueCosts(self._read_costs)
        self._estimates = Estimates(database, catalog, clock, self._costs)
        self._known_failures: tuple[float, Mapping[str, str | None]] = (0.0, {})
        self._sweeper = Sweeper(
            database,
            wakeups,
            SweepSettings(settings.run_timeout_s, settings.max_attempts, settings.delete_every_s),
            life=self._life,
            delete_blobs=self._delete_blobs,
            sweep_blobs=blobs.sweep,
            clock=clock,
        )

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
        run_timeout_s: float | None = None,
        life_s: float | None = None,
        bucket: Bucket | None = None,
    ) -> Submitted:
        """Accept an edit, or raise InvalidRequest, UnknownModel, QueueFull or IdempotencyKeyReused.

        start_timeout_s: fail with `start_timeout` when it has not started by then. max_queue_length: refuse
        when more jobs than this wait in the queue already. run_timeout_s: of one run, below the server's own limit.
        life_s: fail when it has not ended by then, waiting or running. bucket: where the image is put as well.
        """
        delivery.check()
        route = self._decide(account, request, self._catalog.route(request.model))
        completed, notices = route.complete(request)
        self._refuse_what_never_runs(route)
        self._costs.refuse_what_never_fits(completed, route.checkpoint)
        predicted = Predicted(*self._costs.predict(completed, route.checkpoint))
        now = self._clock()
        wait_s = min(each for each in (self._settings.max_wait_s, start_timeout_s, life_s) if each is not None)
        if bucket is not None:
            delivery = replace(delivery, into_bucket=True)
        job = Job(
            id=str(uuid.uuid4()),
            account_id=account.id,
            key_id=account.key_id,
            queue=route.queue,
            state=JobState.QUEUED,
            request=completed,
            delivery=delivery,
            created_at=now,
            queued_at=now,
            priority=priority,
            steps=(completed.steps or 0) * completed.num_images,
            start_by=now + timedelta(seconds=wait_s),
            notices=notices,
            run_timeout_s=run_timeout_s,
            end_by=None if life_s is None else now + timedelta(seconds=life_s),
        )
        with self._database.transaction(durability="deferred") as connection:
            if idempotency is not None:
                known = idempotency_keys.remember(connection, account.id, idempotency, job.id, now)
                if known != job.id:
                    self._database.sync()  # the first caller may still wait for this, and we promise its job as well
                    first = store.find(connection, known)
                    return Submitted(first, first.notices, replayed=True)
            self._refuse_when_full(connection, job, max_queue_length)
            job = store.enqueue(connection, job, weight=account.weight, predicted=predicted)
            if bucket is not None:
                caller_buckets.keep(connection, job.id, bucket)
        self._wake(job.queue)
        # A worker may begin while we wait for the disk. Accepted is what it holds, and files come before the row that
        # names them: after a power cut a row without its files would be a job that cannot run.
        self._blobs.sync(image.blob for image in completed.inputs if image.owned and image.blob is not None)
        self._database.sync()
        return Submitted(job, notices, replayed=False)

    def submit_failed(self, account: Account, request: EditRequest, delivery: Delivery, failure: Failure) -> Job:
        """A job that has failed already, for protocols where what cannot be run is answered as a job. UnknownModel."""
        now = self._clock()
        route = self._catalog.route(request.model)
        job = Job(
            id=str(uuid.uuid4()),
            account_id=account.id,
            key_id=account.key_id,
            queue=route.queue,
            state=JobState.FAILED,
            request=request,
            delivery=delivery,
            created_at=now,
            queued_at=now,
            finished_at=now,
            failure=failure,
        )
        with self._database.transaction() as connection:
            return store.enter_failed(connection, replace(job, expires_at=self._life.end(job, now).expires_at))

    def get(self, account: Account, job_id: str) -> Job:
        """The account's job; UnknownJob when there is none or it is another account's."""
        return _owned(self.get_any(job_id), account)

    def get_any(self, job_id: str) -> Job:
        """The job of any account, for internal readers; UnknownJob."""
        with self._database.read() as connection:
            return store.find(connection, job_id)

    def get_many(self, job_ids: Iterable[str]) -> Mapping[str, Snapshot]:
        """Jobs with their positions and times, by id, for internal readers; ids that do not exist are left out."""
        wanted = list(job_ids)
        if not wanted:
            return {}
        with self._database.read() as connection:
            return self._estimates.snapshots(connection, store.find_many(connection, wanted).values())

    def get_jobs(self, job_ids: Iterable[str]) -> Mapping[str, Job]:
        """The jobs alone, by id, for internal readers; ids that do not exist are left out."""
        with self._database.read() as connection:
            return store.find_many(connection, job_ids)

    def have_ended(self, job_ids: Iterable[str]) -> Mapping[str, bool]:
        """Which of these jobs have ended; ids that do not exist are left out. Cheaper than reading the jobs."""
        with self._database.read() as connection:
            return store.have_ended(connection, job_ids)

    def seconds_left(self, job: Job) -> float | None:
        """See `Snapshot`."""
        with self._database.read() as connection:
            return self._estimates.snapshots(connection, (job,))[job.id].seconds_left

    def position(self, job: Job) -> int:
        """How many jobs are before a waiting one in its queue; 0 is next, and 0 for a job that does not wait."""
        with self._database.read() as connection:
            return store.ahead(connection, job).jobs if job.state is JobState.QUEUED else 0

    def events(self, job_id: str, *, after: int = 0) -> tuple[JobEvent, ...]:
        """The job's history after an event's id, oldest first; empty when there is no such job."""
        return self.events_many({job_id: after})

    def events_many(self, after: Mapping[str, int]) -> tuple[JobEvent, ...]:
        """The histories of several jobs, each after its own event id, oldest first."""
        wanted = {job_id: after[job_id] for job_id in store.possible(after)}
        if not wanted:
            return ()
        with self._database.read() as connection:
            return store.read_events(connection, wanted)

    def recent(self, account: Account, limit: int) -> tuple[Job, ...]:
        """The account's newest jobs, newest first."""
        with self._database.read() as connection:
            return history.recent(connection, account.id, limit)

    def history(self, account: Account, listing: history.Listing, *, skip: int, limit: int) -> history.Page:
        """A page of the account's jobs; see `Listing`."""
        with self._database.read() as connection:
            return history.page(connection, account.id, listing, skip=skip, limit=limit)

    def usage(self, account: Account) -> tuple[ledger.UsageReport, ...]:
        """What the account has used so far, by model."""
        return ledger.Ledger(self._database).report(account.id)

    def usage_by_key(self) -> tuple[ledger.KeyUsage, ...]:
        """What every account has used so far, for the operator."""
        return ledger.Ledger(self._database).by_key()

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
                job = store.end_waiting(connection, job, JobState.CANCELLED, self._life.end(job, now))
        self.wakeups.publish(JOB_TOPIC)
        if job.state is JobState.RUNNING:
            self.wakeups.publish(CANCEL_TOPIC)
        return job

    def retry(self, account: Account, job_id: str) -> Job:
        """Queue a failed job again, under its id and with the same input; what it left behind is dropped.

        Raises InvalidRequest for a job that has not failed or cannot be run any more, UnknownJob and QueueFull.
        """
        now = self._clock()
        with self._database.transaction() as connection:
            job = _owned(store.find(connection, job_id, lock=True), account)
            if job.state is not JobState.FAILED:
                raise InvalidRequest(f"Only a failed job can be retried; '{job.id}' is {job.state.value}.")
            if not job.request.images or job.payload_deleted:
                raise InvalidRequest(f"The job '{job.id}' has no input that could be run; submit it anew.")
            if job.delivery.into_bucket:
                raise InvalidRequest(f"The keys to the bucket of '{job.id}' were forgotten at its end; submit it anew.")
            if job.end_by is not None and job.end_by <= now:
                raise InvalidRequest(f"The life that was given to the job '{job.id}' is over; submit it anew.")
            self._refuse_when_full(connection, job, None)
            start_by = now + timedelta(seconds=self._settings.max_wait_s)
            start_by = start_by if job.end_by is None else min(start_by, job.end_by)
            route = self._catalog.route(job.request.model, queue=job.queue)
            read = partial(device_costs.of_queue, connection)  # a second connection might have to be waited for
            predicted = Predicted(*self._costs.predict(job.request, route.checkpoint, read))
            job = store.retry(connection, job, weight=account.weight, predicted=predicted, now=now, start_by=start_by)
        self._wake(job.queue)
        return job

    def cancel_waiting(self, account: Account, protocol: str, endpoint: str) -> int:
        """Cancel the account's waiting jobs of one endpoint of a face; returns how many. Running ones go on."""
        with self._database.read() as connection:
            waiting = history.waiting_of(connection, account.id, protocol, endpoint)
        cancelled = 0
        for begin in range(0, len(waiting), CANCELLED_AT_ONCE):
            now = self._clock()
            with self._database.transaction() as connection:
                jobs = store.find_many(connection, waiting[begin : begin + CANCELLED_AT_ONCE], lock=True).values()
                for job in jobs:
                    if job.state is not JobState.QUEUED:  # started or ended meanwhile
                        continue
                    store.end_waiting(connection, job, JobState.CANCELLED, self._life.end(job, now))
                    cancelled += 1
        if cancelled:
            self.wakeups.publish(JOB_TOPIC)
        return cancelled

    def forget_payload(self, job_id: str) -> None:
        """Delete what a finished job was given and made; its state and its usage stay. Twice is no error."""
        with self._database.transaction() as connection:
            job = store.find(connection, job_id, lock=True)
            if not job.state.final or job.payload_deleted:
                return
            keys = files_of(connection, (job,))
            store.forget_payload(connection, job)
        self._delete_blobs(keys)

    def delete_payload(self, account: Account, job_id: str) -> Job:
        """`forget_payload` of the account's own job; returns it as it was. Raises UnknownJob and JobNotFinished."""
        job = self.get(account, job_id)
        if not job.state.final:
            raise JobNotFinished(f"The job '{job.id}' is {job.state.value}; cancel it before its payload is deleted.")
        self.forget_payload(job.id)
        return job

    # --- the worker's side

    def lease(self, worker: str, queues: Sequence[str], lease_s: float) -> Lease | None:
        """The next job of the first queue that has one, or None. It takes the writer's turn: ask `head` first."""
        for queue in queues:
            with self._database.transaction(durability="eventual") as connection:
                lease = store.claim(connection, queue, worker, self._clock(), lease_s)
            if lease is not None:
                self.wakeups.publish(JOB_TOPIC)
                return lease
        return None

    def head(self, queue: str) -> Place | None:
        """Where the job stands that a lease would take now; None when nothing waits."""
        with self._database.read() as connection:
            return store.head(connection, queue, self._clock())

    def bucket_of(self, lease: Lease) -> Bucket | None:
        """Where the caller wants the image as well, with the keys for it; None for most jobs."""
        if not lease.job.delivery.into_bucket:
            return None
        with self._database.read() as connection:
            return caller_buckets.read(connection, lease.job.id)

    def renew(self, lease: Lease, lease_s: float) -> bool:
        """Keep the lease for `lease_s` from now. True when the owner wants it cancelled; LeaseLost."""
        with self._database.transaction(durability="eventual") as connection:
            return store.renew(connection, lease, self._clock() + timedelta(seconds=lease_s))

    def progress(
        self,
        lease: Lease,
        *,
        step: int,
        steps: int,
        repeated: bool = False,
        logs: Sequence[str] = (),
        previews: Sequence[Preview] = (),
        seconds_left: float | None = None,
    ) -> bool:
        """Record how far it is, at most four times a second. True when the owner wants it cancelled; LeaseLost.

        repeated: the step was recorded before, so it is no event again. seconds_left: until its images are there, as
        the worker predicts it.
        """
        new: list[store.NewEvent] = [("log", {"level": "INFO", "message": line}) for line in logs]
        left = {} if seconds_left is None else {"seconds_left": round(seconds_left, 1)}
        if steps and not repeated:  # a hosted provider may tell none
            new.append(("step", {"step": step, "steps": steps, **left}))
        new += [("preview", {"blob": each.blob, "image": each.image, "step": each.step}) for each in previews]
        with self._database.transaction(durability="eventual") as connection:
            cancel = store.progress(connection, lease, self._clock(), new, step=step, steps=steps)
        self.wakeups.publish(JOB_TOPIC)
        return cancel

    def keep_expansion(self, lease: Lease, expansion: Expansion) -> None:
        """The words that are used instead of the prompt, before the first step is taken with them. LeaseLost."""
        with self._database.transaction(durability="deferred") as connection:
            store.keep_expansion(connection, lease, expansion)
        self._database.sync()

    def finish(
        self, lease: Lease, output: EditOutput, usage: Usage, *, charges: Mapping[str, int] | None = None
    ) -> Job:
        """The edit is done: state, price, usage entry and webhook in one transaction. LeaseLost.

        charges: what each attempt at a provider has cost that made its images, by id; their sum is the price then.
        """
        model = lease.job.request.model
        price = self._catalog.route(model).price_microusd(usage) if charges is None else sum(charges.values())
        priced = replace(usage, price_microusd=price)
        with self._ending(lease) as (connection, end):
            for attempt_id, charge in (charges or {}).items():  # before the end, which settles what is not booked
                attempts.book(connection, attempt_id, charge)
            job = store.finish(connection, lease, output, priced, end)
            entry = ledger.UsageEntry(job.id, job.account_id, job.key_id, model, priced, end.at)
            ledger.record(connection, entry)
        return job

    def fail(self, lease: Lease, failure: Failure) -> Job:
        """The edit cannot be done. Nothing is billed. LeaseLost."""
        with self._ending(lease) as (connection, end):
            return store.fail(connection, lease, failure, end)

    def acknowledge_cancel(self, lease: Lease) -> Job:
        """The worker has stopped the edit on its owner's wish. Nothing is billed. LeaseLost."""
        with self._ending(lease) as (connection, end):
            return store.cancel_running(connection, lease, end)

    @contextmanager
    def _ending(self, lease: Lease) -> Iterator[tuple[Connection, End]]:
        """The transaction that ends a leased job: those who wait are woken by it, and the disk holds it at the end."""
        with self._database.transaction(durability="deferred") as connection:
            yield connection, self._life.end(lease.job, self._clock())
        self.wakeups.publish(JOB_TOPIC)
        self._database.sync()

    def release(self, lease: Lease) -> None:
        """Give the job back, as if it had not been leased: its old place, no attempt used. LeaseLost.

        A job whose owner wants it cancelled ends here.
        """
        now = self._clock()
        with self._database.transaction(durability="eventual") as connection:
            job = store.held(connection, lease)
            if job.cancel_requested:
                store.cancel_running(connection, lease, self._life.end(job, now))
            else:
                store.requeue(connection, lease, now, costs_attempt=False)
        self._wake(lease.job.queue)

    def lose(self, lease: Lease, *, at_work: bool) -> None:
        """Give back a job that was on a device which has failed: it costs an attempt, and may be the last. LeaseLost.

        at_work: the device failed at a step of this job, so the job itself may be the cause.
        """
        most = min(self._settings.max_attempts, MAX_DEVICE_LOSSES) if at_work else self._settings.max_attempts
        cause = ", the last time by a failure of its device"
        with self._database.transaction() as connection:
            job = store.held(connection, lease)
            store.end_attempt(connection, lease, job, most, self._life.end(job, self._clock()), cause=cause)
        self._wake(lease.job.queue)

    def beat(
        self,
        worker: str,
        queues: Sequence[str],
        device: str,
        state: str,
        *,
        seconds: Mapping[str, float] | None = None,
        checks: Mapping[str, int] | None = None,
        problem: str | None = None,
        facts: Mapping[str, str] | None = None,
    ) -> None:
        """A worker is alive, see `LiveWorker`. Every few seconds."""
        alive = LiveWorker(
            worker,
            tuple(queues),
            device,
            state,
            self._clock(),
            seconds=seconds or {},
            checks=checks or {},
            problem=problem,
            facts=facts or {},
        )
        with self._database.transaction(durability="eventual") as connection:
            liveness.beat(connection, alive)

    # --- housekeeping

    def sweep(self) -> Swept:
        """Rescue jobs of dead workers, enforce deadlines, delete what has expired. About once a second.

        Several processes may sweep one database; each job is moved by one of them.
        """
        return self._sweeper.sweep()

    def ready(self) -> str | None:
        """None when an edit would be run now, else the reason why not, in a sentence."""
        try:
            with self._database.read() as connection:
                workers = liveness.live(connection, self._clock())
            next(iter(self._blobs.keys("outputs")), None)
        except (DatabaseUnavailable, StorageUnavailable) as error:
            return error.message
        return liveness.unready_reason(workers, self._catalog.queues)

    def models(self) -> Mapping[str, str]:
        """Each queue that some model id leads to: `ready`, or why its edits would not be run now, in a sentence."""
        with self._database.read() as connection:
            workers = liveness.live(connection, self._clock())
        return {queue: liveness.unready_reason(workers, (queue,)) or liveness.READY for queue in self._catalog.queues}

    def statistics(self) -> QueueStatistics:
        """Jobs by queue and state, and the workers that are alive."""
        with self._database.read() as connection:
            return liveness.statistics(connection, self._clock())

    def hosted(self) -> HostedStatistics:
        """How attempts at hosted providers ended and what they cost, and the breakers of their targets."""
        with self._database.read() as connection:
            return HostedStatistics(tuple(attempts.tally(connection)), breakers.read_all(connection), self._clock())

    def queue_load(self, account: Account, queue: str) -> QueueLoad:
        """The account's jobs in a queue by state, and how the workers of that queue are."""
        with self._database.read() as connection:
            return liveness.load_of(connection, account.id, queue, self._clock())

    # --- what edits take

    def keep_cost(self, queue: str, device: str, cost: Cost) -> None:
        """What edits of a queue take on a device, as a worker has measured it."""
        with self._database.transaction(durability="eventual") as connection:
            device_costs.keep(connection, queue, device, cost.to_json(), self._clock())
        self._estimates.forget(queue)

    def costs(self, queue: str) -> Mapping[str, Cost]:
        """What is known of edits of a queue, by device; may be a few seconds old."""
        return self._costs.of_queue(queue)

    def _read_costs(self, queue: str) -> Mapping[str, Mapping[str, Any]]:
        with self._database.read() as connection:
            return device_costs.of_queue(connection, queue)

    # --- what several verbs do

    def _refuse_what_never_runs(self, route: Route) -> None:
        """Raise Unavailable when the model could not be loaded, so that no job waits for it in vain."""
        queues = self._catalog.queues
        if len(queues) == 1:  # a server whose only model fails ends
            return
        until, failures = self._known_failures
        if time.monotonic() >= until:
            with self._database.read() as connection:
                workers = liveness.live(connection, self._clock())
            failures = {queue: liveness.failure_of(workers, queue) for queue in queues}
            self._known_failures = time.monotonic() + FAILURES_FRESH_S, failures
        reason = failures.get(route.queue)
        if reason is not None:
            raise Unavailable(f"The model '{route.queue}' is not served here now. {reason}")

    def _decide(self, account: Account, request: EditRequest, route: Route) -> Route:
        """The way an edit takes: to a worker here, or to an upstream."""
        if not route.hosted and route.checkpoint is not HOSTED:
            return route
        assert self._dispatch is not None, "models lead to upstreams where there is a gateway"
        if route.checkpoint is HOSTED:
            self._dispatch(account, request, None)  # for what it refuses
            return route

        def local_wait_s() -> float:
            here = route.decided(upstream=False)
            self._costs.refuse_what_never_fits(here.complete(request)[0], here.checkpoint)
            return self._estimates.wait_s(here)

        return route.decided(upstream=self._dispatch(account, request, local_wait_s))

    def _refuse_when_full(self, connection: Connection, job: Job, max_queue_length: int | None) -> None:
        waiting, most = fair_queue.account_waiting(connection, job.account_id), self._settings.max_waiting_per_account
        if waiting >= most:
            raise QueueFull(f"{waiting} jobs of this account wait already; at most {most} may.", allowed=most)
        if max_queue_length is None:
            return
        waiting = fair_queue.length(connection, job.queue)
        if waiting > max_queue_length:
            raise QueueFull(f"{waiting} jobs wait already, more than {max_queue_length}.", allowed=max_queue_length)

    def _wake(self, queue: str) -> None:
        self.wakeups.publish(queue_topic(queue))
        self.wakeups.publish(JOB_TOPIC)

    def _delete_blobs(self, keys: Iterable[str]) -> None:
        for key in keys:
            with suppress(UnknownFile):  # a key that no store of ours could have made
                self._blobs.delete(key)


def _owned(job: Job, account: Account) -> Job:
    if job.account_id != account.id:
        raise UnknownJob(f"There is no job '{job.id}'.")
    return job
