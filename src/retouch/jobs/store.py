"""Reads and writes jobs and their history: every state change of a job is one function here.

Each takes the connection of the transaction it belongs to, and appends the event that the change is. A worker's
writes are fenced: they touch the row only while it is running, by that worker, on that claim; otherwise LeaseLost.
What ends a job here also writes its webhook. Money and wake-ups are the business of `service.py`; who is next is
decided in `fair_queue.py`, what has to be moved or deleted is looked for in `sweep.py`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    Row,
    and_,
    bindparam,
    delete,
    insert,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate

from retouch.catalog import HOSTED
from retouch.database import insert_of
from retouch.edit import Delivery, EditOutput, EditRequest, Expansion, Notice, Usage
from retouch.errors import Failure, JobFinished, LeaseLost, UnknownJob, WorkerLost
from retouch.jobs import attempts, caller_buckets, fair_queue, outbox
from retouch.jobs.fair_queue import PLACE, QUEUED, Ahead, Place, Turn
from retouch.jobs.job import Job, JobEvent, JobState, Lease, state_after_lost_lease
from retouch.jobs.tables import job, job_event, job_tally

RUNNING: ColumnElement[bool] = job.c.state == literal_column("'running'")
"""Written out, as `fair_queue.QUEUED` is, for the partial index."""

ID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""A job's id: a UUID as text."""

HISTORIES_AT_ONCE = 50
"""Histories read by one statement: SQLite takes no alternative of more than a thousand."""

NewEvent: TypeAlias = tuple[str, Mapping[str, object]]
"""Kind and data of an event that is not written yet."""


# --- reading


def find(connection: Connection, job_id: str, *, lock: bool = False) -> Job:
    """The job, or UnknownJob. lock: keep others from changing it until the transaction ends."""
    if not ID.fullmatch(job_id):  # a caller's text, which the database might not even be able to hold
        raise UnknownJob("There is no such job.")
    row = connection.execute(_FIND_LOCKED if lock else _FIND, {"of_job": job_id}).one_or_none()
    if row is None:
        raise UnknownJob(f"There is no job '{job_id}'.")
    return job_of(row)


_FIND = select(job).where(job.c.id == bindparam("of_job"))
_FIND_LOCKED = _FIND.with_for_update()


def find_many(connection: Connection, job_ids: Iterable[str], *, lock: bool = False) -> Mapping[str, Job]:
    """The jobs that exist among `job_ids`. lock: as for `find`."""
    rows = connection.execute(_FIND_MANY_LOCKED if lock else _FIND_MANY, {"of_jobs": possible(job_ids)})
    return {row.id: job_of(row) for row in rows}


_AMONG = job.c.id.in_(bindparam("of_jobs", expanding=True))
_FIND_MANY = select(job).where(_AMONG).order_by(job.c.sequence)
_FIND_MANY_LOCKED = _FIND_MANY.with_for_update()


def possible(job_ids: Iterable[str]) -> list[str]:
    """Those that look like ids at all."""
    return [job_id for job_id in job_ids if ID.fullmatch(job_id)]


def have_ended(connection: Connection, job_ids: Iterable[str]) -> Mapping[str, bool]:
    """Which of the jobs that exist have ended."""
    rows = connection.execute(_HAVE_ENDED, {"of_jobs": possible(job_ids)})
    return {row[0]: bool(row[1]) for row in rows}


_HAVE_ENDED = select(job.c.id, job.c.finished_at.is_not(None)).where(_AMONG)


def read_events(connection: Connection, after: Mapping[str, int]) -> tuple[JobEvent, ...]:
    """The events of several jobs, of each those with an id above its own number; oldest first."""
    found: list[JobEvent] = []
    jobs = iter(after.items())
    while some := list(itertools.islice(jobs, HISTORIES_AT_ONCE)):
        news = or_(*(and_(job_event.c.job_id == job_id, job_event.c.id > seen) for job_id, seen in some))
        rows = connection.execute(select(job_event).where(news))
        found += (JobEvent(row.id, row.job_id, row.kind, row.data, row.created_at) for row in rows)
    return tuple(sorted(found, key=lambda event: event.id))


# --- waiting


_ENQUEUE = insert(job).returning(job.c.sequence)


class Predicted(NamedTuple):
    """Device seconds, all images together: of this job, and of a typical one of its queue."""

    seconds: float
    typical_s: float


def enqueue(connection: Connection, new: Job, *, weight: int, predicted: Predicted) -> Job:
    """Write a queued job of an account of that weight; returns it with its place."""
    new = _with_turn(connection, new, weight, predicted)
    written = replace(new, sequence=connection.execute(_ENQUEUE, _row_of(new)).scalar_one())
    _append_state(connection, written, new.created_at)
    fair_queue.join(connection, new.queue, turn_of(written))
    return written


def _with_turn(connection: Connection, new: Job, weight: int, predicted: Predicted) -> Job:
    cost, typical = (fair_queue.cost_of(seconds) for seconds in predicted)
    share = fair_queue.take_turn(connection, new.queue, new.priority, new.account_id, cost, weight, typical)
    return replace(new, fair_tag=share.fair_tag, fair_cost=share.share, cost=share.cost, quick=share.quick)


def enter_failed(connection: Connection, new: Job) -> Job:
    """Write a job that had failed before it could wait: its request cannot be run."""
    assert new.failure is not None, "a failed job has a failure"
    assert new.finished_at is not None, "a failed job has ended"
    failure = {"failure": new.failure.to_json(), "finished_at": new.finished_at, "expires_at": new.expires_at}
    sequence = connection.execute(_ENQUEUE.values(**failure), _row_of(new)).scalar_one()
    written = replace(new, sequence=sequence)
    _append_state(connection, written, new.finished_at)
    return _finalize(connection, written, new.finished_at)


def _row_of(new: Job) -> dict[str, Any]:
    return {
        "id": new.id,
        "account_id": new.account_id,
        "key_id": new.key_id,
        "queue": new.queue,
        "state": new.state.value,
        "priority": new.priority,
        "fair_tag": new.fair_tag,
        "fair_cost": new.fair_cost,
        "cost": new.cost,
        "quick": new.quick,
        "request": new.request.to_json(),
        "delivery": new.delivery.to_json(),
        "notices": [asdict(notice) for notice in new.notices],
        "attempt": 0,
        "claims": 0,
        "cancel_requested": False,
        "step": 0,
        "steps": new.steps,
        "created_at": new.created_at,
        "start_by": new.start_by,
        "run_timeout_s": new.run_timeout_s,
        "end_by": new.end_by,
        "payload_deleted": False,
    }


def retry(
    connection: Connection, failed: Job, *, weight: int, predicted: Predicted, now: datetime, start_by: datetime
) -> Job:
    """failed to queued, at the end of its account's line. The caller has locked the row and seen that it has failed.

    What it left behind is forgotten, its history too: a reader of the events begins anew.
    """
    turn = _with_turn(connection, failed, weight, predicted)
    values = {
        "state": JobState.QUEUED.value,
        "fair_tag": turn.fair_tag,
        "fair_cost": turn.fair_cost,
        "cost": turn.cost,
        "quick": turn.quick,
        "attempt": 0,
        "worker": None,
        "cancel_requested": False,
        "step": 0,
        "start_by": start_by,
        "run_by": None,
        "started_at": None,
        "finished_at": None,
        "expires_at": None,
        "failure": None,
        "retries": failed.retries + 1,
        "retried_at": now,
    }
    changed = update(job).where(job.c.id == failed.id).values(**values)
    waiting = job_of(connection.execute(changed.returning(job)).one())
    connection.execute(delete(job_event).where(job_event.c.job_id == waiting.id))
    _append_state(connection, waiting, now)
    fair_queue.join(connection, waiting.queue, turn_of(waiting))
    return waiting


_CAN_START = (
    job.c.queue == bindparam("of_queue"),
    QUEUED,
    or_(job.c.start_by.is_(None), job.c.start_by > bindparam("now")),
)

_HEAD = (
    select(job.c.sequence, job.c.run_timeout_s)
    .where(*_CAN_START)
    .order_by(*PLACE)
    .limit(1)
    .with_for_update(skip_locked=True)
)
_HEAD_PLACE = select(*PLACE).where(*_CAN_START).order_by(*PLACE).limit(1)

_CLAIM = (
    update(job)
    .where(job.c.sequence == bindparam("of_sequence"))
    .values(
        state=JobState.RUNNING.value,
        worker=bindparam("by_worker"),
        lease_until=bindparam("until"),
        started_at=bindparam("now"),
        start_by=None,
        run_by=bindparam("to_run_by"),
        step=0,
        attempt=job.c.attempt + 1,
        claims=job.c.claims + 1,
    )
    .returning(job)
)


def head(connection: Connection, queue: str, now: datetime) -> Place | None:
    """Where the job stands that a claim would take."""
    row = connection.execute(_HEAD_PLACE, {"of_queue": queue, "now": now}).one_or_none()
    return None if row is None else Place(*row)


def claim(connection: Connection, queue: str, worker: str, now: datetime, lease_s: float) -> Lease | None:
    """Take the next job of the queue. On PostgreSQL rows that another claim holds are passed over."""
    head = connection.execute(_HEAD, {"of_queue": queue, "now": now}).one_or_none()
    if head is None:
        return None
    until = now + timedelta(seconds=lease_s)
    run_by = None if head.run_timeout_s is None else now + timedelta(seconds=head.run_timeout_s)
    claim = {"of_sequence": head.sequence, "by_worker": worker, "until": until, "now": now, "to_run_by": run_by}
    # By its number alone: the look above has locked the row, and on SQLite the writer's turn, so it is queued still.
    row = connection.execute(_CLAIM, claim).one()
    claimed = job_of(row)
    _append_state(connection, claimed, now, attempt=claimed.attempt)
    fair_queue.start(connection, queue, turn_of(claimed))
    return Lease(claimed, worker, row.claims)


def ahead(connection: Connection, waiting: Job) -> Ahead:
    """What is before a waiting job in its queue."""
    return fair_queue.ahead(connection, waiting.queue, place_of(waiting))


def end_waiting(connection: Connection, waiting: Job, state: JobState, end: End, failure: Failure | None = None) -> Job:
    """Take a job out of the line for good. The caller has locked its row and seen that it is queued."""
    values = _ended(state, end, failure)
    row = connection.execute(_END_WAITING, {**values, "of_job": waiting.id}).one_or_none()
    if row is None:
        raise JobFinished(f"The job '{waiting.id}' is no longer waiting.")
    ended = job_of(row)
    _append_state(connection, ended, end.at)
    fair_queue.give_up(connection, waiting.queue, turn_of(waiting))
    return _finalize(connection, ended, end.at)


_END_WAITING: ReturningUpdate[Any] = update(job).where(job.c.id == bindparam("of_job"), QUEUED).returning(job)


# --- running


class Under(NamedTuple):
    """A running job, as far as others wait for it. left: of its cost, by its steps."""

    place: Place
    worker: str
    left: int


def under_way(connection: Connection, queue: str) -> tuple[Under, ...]:
    """The running jobs of a queue."""
    columns = (job.c.priority, job.c.fair_tag, job.c.sequence, job.c.worker, job.c.cost, job.c.step, job.c.steps)
    rows = connection.execute(select(*columns).where(RUNNING, job.c.queue == queue))
    return tuple(
        Under(Place(*row[:3]), row.worker, row.cost * max(0, row.steps - row.step) // max(1, row.steps)) for row in rows
    )


def held(connection: Connection, lease: Lease) -> Job:
    """The leased job as it is now, locked; LeaseLost."""
    return job_of(_or_lost(connection.execute(_HELD, fence_of(lease)).one_or_none(), lease))


def check_held(connection: Connection, lease: Lease) -> None:
    """LeaseLost when it does not stand; the row is locked and not read."""
    _or_lost(connection.execute(_STANDS, fence_of(lease)).one_or_none(), lease)


def renew(connection: Connection, lease: Lease, until: datetime) -> bool:
    """Move the end of the lease; True when the owner wants it cancelled."""
    return bool(_fenced(connection, lease, {"lease_until": until}).cancel_requested)


def progress(
    connection: Connection, lease: Lease, now: datetime, events: Iterable[NewEvent], *, step: int, steps: int
) -> bool:
    """Write how far the edit is and what there is to tell of it; True when the owner wants it cancelled."""
    row = _fenced(connection, lease, {"step": step, "steps": steps})
    _append(connection, lease.job.id, now, *events)
    return bool(row.cancel_requested)


def keep_expansion(connection: Connection, lease: Lease, expansion: Expansion) -> Job:
    """Write the words that are used instead of the prompt; every later attempt reads them."""
    changed = replace(lease.job.request, expansion=expansion)
    return job_of(_fenced(connection, lease, {"request": changed.to_json()}))


def finish(connection: Connection, lease: Lease, output: EditOutput, usage: Usage, end: End) -> Job:
    """running to succeeded, with the notices of the submit in front of the worker's."""
    output = replace(output, notices=(*lease.job.notices, *output.notices))
    made = {"output": output.to_json(), "usage": asdict(usage)}
    return _end_running(connection, lease, _ended(JobState.SUCCEEDED, end) | made, change=_FINISH)


def fail(connection: Connection, lease: Lease, failure: Failure, end: End) -> Job:
    """running to failed."""
    return _end_running(connection, lease, _ended(JobState.FAILED, end, failure))


def cancel_running(connection: Connection, lease: Lease, end: End) -> Job:
    """running to cancelled."""
    return _end_running(connection, lease, _ended(JobState.CANCELLED, end))


def request_cancel(connection: Connection, running: Job) -> Job:
    """Mark it for the worker. The caller has locked the row and seen that it is running."""
    changed = update(job).where(job.c.id == running.id).values(cancel_requested=True)
    return job_of(connection.execute(changed.returning(job)).one())


def requeue(connection: Connection, lease: Lease, now: datetime, *, costs_attempt: bool) -> Job:
    """running to queued, at its old place, which is before everything submitted since."""
    values: dict[str, Any] = {
        "state": JobState.QUEUED.value,
        "worker": None,
        "lease_until": None,
        "started_at": None,
        "start_by": lease.job.end_by,
        "run_by": None,
        "step": 0,
    }
    waiting = job_of(_fenced(connection, lease, values, change=_FENCED if costs_attempt else _UNCOUNTED))
    _append_state(connection, waiting, now)
    fair_queue.come_back(connection, waiting.queue, turn_of(waiting))
    return waiting


def end_attempt(
    connection: Connection, lease: Lease, leased: Job, max_attempts: int, end: End, *, cause: str = ""
) -> JobState:
    """Move a job whose worker was lost to where it goes then; `leased` is its locked row. Returns its new state."""
    state = state_after_lost_lease(leased, max_attempts)
    if state is JobState.QUEUED:
        requeue(connection, lease, end.at, costs_attempt=True)
    elif state is JobState.CANCELLED:
        cancel_running(connection, lease, end)
    else:
        lost = WorkerLost(f"The worker was lost on each of {leased.attempt} attempts{cause}.")
        fail(connection, lease, lost.failure, end)
    return state


FENCE = (
    job.c.id == bindparam("of_job"),
    RUNNING,
    job.c.worker == bindparam("by_worker"),
    job.c.claims == bindparam("of_claim"),
)
"""Whether a lease still stands: conditions for its row, executed with `fence_of` it.

A worker that was silent for too long does not know that it has lost its job. Whatever it writes later names a claim
that is not the row's any more, so it changes nothing, whichever worker runs the job by then.
"""

_HELD = select(job).where(*FENCE).with_for_update()
_STANDS = select(job.c.id).where(*FENCE).with_for_update()
_FENCED: ReturningUpdate[Any] = update(job).where(*FENCE).returning(job)
_FINISH: ReturningUpdate[Any] = _FENCED.values(step=job.c.steps)
_UNCOUNTED: ReturningUpdate[Any] = _FENCED.values(attempt=job.c.attempt - 1)


def fence_of(lease: Lease) -> dict[str, Any]:
    return {"of_job": lease.job.id, "by_worker": lease.worker, "of_claim": lease.claim}


def _fenced(
    connection: Connection, lease: Lease, values: Mapping[str, Any], *, change: ReturningUpdate[Any] = _FENCED
) -> Row[Any]:
    """Write `values` to the leased row if the lease still stands; returns the changed row."""
    # The fence is part of the UPDATE and not a look before it: between the two the lease could be lost.
    return _or_lost(connection.execute(change, {**values, **fence_of(lease)}).one_or_none(), lease)


def _or_lost(row: Row[Any] | None, lease: Lease) -> Row[Any]:
    if row is None:
        raise LeaseLost(f"The worker '{lease.worker}' no longer owns the job '{lease.job.id}'.")
    return row


def _end_running(
    connection: Connection, lease: Lease, values: Mapping[str, Any], *, change: ReturningUpdate[Any] = _FENCED
) -> Job:
    ended = job_of(_fenced(connection, lease, values, change=change))
    _append_state(connection, ended, values["finished_at"])
    return _finalize(connection, ended, values["finished_at"])


# --- ends


class End(NamedTuple):
    """When a job ends, and when its row and its files may go."""

    at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Retention:
    """How long an ended job is kept, in seconds, when its caller named no time; and how long at the least, so
    that its caller can still read how it ended. A life that its caller gave the whole job ends both.
    """

    default_s: float
    shortest_s: float

    def end(self, job: Job, at: datetime) -> End:
        """The end of a job that ends at `at`."""
        wanted_s = job.delivery.retention_s
        life_s = self.default_s if wanted_s is None else wanted_s
        expires_at = at + timedelta(seconds=max(life_s, self.shortest_s))
        return End(at, expires_at if job.end_by is None else max(at, min(expires_at, job.end_by)))


def _ended(state: JobState, end: End, failure: Failure | None = None) -> dict[str, Any]:
    return {
        "state": state.value,
        "finished_at": end.at,
        "expires_at": end.expires_at,
        "lease_until": None,
        "failure": None if failure is None else failure.to_json(),
    }


def forget_payload(connection: Connection, finished: Job) -> Job:
    """Blank the request, drop the output, and the log lines and previews; its owner, times, steps and price remain."""
    blank = replace(finished.request, prompt="", negative_prompt=None, images=(), mask=None)
    values = {"request": blank.to_json(), "output": None, "payload_deleted": True}
    row = connection.execute(update(job).where(job.c.id == finished.id).values(values).returning(job)).one()
    logs_and_previews = job_event.c.kind.in_(("log", "preview"))
    connection.execute(delete(job_event).where(job_event.c.job_id == finished.id, logs_and_previews))
    return job_of(row)


# --- rows to values


def place_of(waiting: Job) -> Place:
    return Place(waiting.priority, waiting.fair_tag, waiting.sequence)


def turn_of(waiting: Job) -> Turn:
    return Turn(waiting.account_id, place_of(waiting), waiting.cost, waiting.fair_cost, waiting.quick)


def job_of(row: Row[Any]) -> Job:
    """The job of a row."""
    return Job(
        id=row.id,
        account_id=row.account_id,
        key_id=row.key_id,
        queue=row.queue,
        state=JobState(row.state),
        request=EditRequest.from_json(row.request),
        delivery=Delivery.from_json(row.delivery),
        sequence=row.sequence,
        priority=row.priority,
        fair_tag=row.fair_tag,
        fair_cost=row.fair_cost,
        cost=row.cost,
        quick=row.quick,
        attempt=row.attempt,
        cancel_requested=row.cancel_requested,
        step=row.step,
        steps=row.steps,
        created_at=row.created_at,
        queued_at=row.retried_at or row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        start_by=row.start_by,
        expires_at=row.expires_at,
        notices=tuple(Notice(**notice) for notice in row.notices),
        output=None if row.output is None else EditOutput.from_json(row.output),
        failure=None if row.failure is None else Failure.from_json(row.failure),
        usage=None if row.usage is None else Usage(**row.usage),
        payload_deleted=row.payload_deleted,
        worker=row.worker,
        run_timeout_s=row.run_timeout_s,
        end_by=row.end_by,
        retries=row.retries,
    )


# --- what goes with a change


def _append_state(connection: Connection, changed: Job, now: datetime, **also: object) -> None:
    code = {} if changed.failure is None else {"code": changed.failure.code}
    _append(connection, changed.id, now, ("state", {"state": changed.state.value, **also, **code}))


def _append(connection: Connection, job_id: str, now: datetime, *new: NewEvent) -> None:
    """Add events to a job's history, in order. The caller holds the job's row, so ids grow with time."""
    rows = [{"job_id": job_id, "kind": kind, "data": dict(data), "created_at": now} for kind, data in new]
    if rows:
        connection.execute(_APPEND, rows)


_APPEND = insert(job_event)


def _finalize(connection: Connection, ended: Job, now: datetime) -> Job:
    """What goes with every end: the webhook and money that are owed, the caller's bucket keys, the metrics' count."""
    if ended.delivery.webhook_url is not None:
        outbox.enqueue(connection, ended, now)
    if ended.delivery.into_bucket:
        caller_buckets.forget(connection, ended.id)
    if ended.queue == HOSTED.name:
        attempts.settle_job(connection, ended.id, now)
    counted = {"queue": ended.queue, "state": ended.state.value, "jobs": 1, "wait_ms": 0, "run_ms": 0}
    if ended.state is JobState.SUCCEEDED and ended.started_at is not None:
        counted |= {"wait_ms": _ms(ended.queued_at, ended.started_at), "run_ms": _ms(ended.started_at, now)}
    connection.execute(_tally(connection.dialect.name), counted)
    return ended


@cache
def _tally(dialect: str) -> Executable:
    row = insert_of(dialect, job_tally)
    sums = {name: job_tally.c[name] + row.excluded[name] for name in ("jobs", "wait_ms", "run_ms")}
    return row.on_conflict_do_update(index_elements=["queue", "state"], set_=sums)


def _ms(begin: datetime, end: datetime) -> int:
    """Between two moments; never less than 0, as clocks of several machines may differ."""
    return max(0, round((end - begin).total_seconds() * 1000))
