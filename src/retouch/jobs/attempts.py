"""Submits to hosted providers, one row each, and what each may become.

    planned ──► sending ──► accepted ──► done
       │           ├───────────┼───────► refused
       │           │           └───────► abandoned
       │           └──► unknown ──► accepted, done, refused
       └───────────────────────────────► abandoned

`sending` is committed before the first byte leaves and `accepted` right after the answer, so that who finds a row
in one of them knows that the provider may be at work: such an edit is looked up, never submitted again. The database
refuses a second open row for the same image. What a fault means, and whom to ask next, is not known here.

A row holds what the submit costs at most; what it did cost is settled in the transaction that ends its job
(`settle_job`), and corrected when an answer comes after that. Times are the caller's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, TypeAlias

from sqlalchemy import Connection, Row, bindparam, func, insert, select, update
from sqlalchemy.sql.dml import ReturningUpdate

from retouch.database import insert_into
from retouch.jobs.tables import attempt, attempt_tally


class AttemptState(StrEnum):
    PLANNED = "planned"  #: the row is written, nothing is sent; the gateway writes its rows when they are `sending`
    SENDING = "sending"  #: bytes may be on their way
    ACCEPTED = "accepted"  #: the provider has it and named it; `ticket`
    DONE = "done"  #: the provider has made the images; `result`
    REFUSED = "refused"  #: it was not taken, or ended there without an image; `cause`
    UNKNOWN = "unknown"  #: it cannot be known whether it was taken, or is charged
    ABANDONED = "abandoned"  #: given up by us: cancelled, or out of time


OPEN = frozenset({AttemptState.PLANNED, AttemptState.SENDING, AttemptState.ACCEPTED})

FROM: Mapping[AttemptState, frozenset[AttemptState]] = {
    AttemptState.SENDING: frozenset({AttemptState.PLANNED}),
    AttemptState.ACCEPTED: frozenset({AttemptState.SENDING, AttemptState.UNKNOWN, AttemptState.ACCEPTED}),
    AttemptState.DONE: frozenset({AttemptState.SENDING, AttemptState.ACCEPTED, AttemptState.UNKNOWN}),
    AttemptState.REFUSED: frozenset({AttemptState.SENDING, AttemptState.ACCEPTED, AttemptState.UNKNOWN}),
    AttemptState.UNKNOWN: frozenset({AttemptState.SENDING, AttemptState.ACCEPTED}),
    AttemptState.ABANDONED: frozenset({AttemptState.PLANNED, AttemptState.ACCEPTED}),
}
"""From which states each can be reached. A webhook may name the job before the answer to its submit does."""

LATE = frozenset({AttemptState.DONE, AttemptState.REFUSED})
"""What an answer that comes after the job's end may still make of an unknown attempt: it says what is owed."""

Counts: TypeAlias = Literal["good", "bad"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One row. image, images: index of the first image it makes, and how many. lane: 1 for a hedge.

    Money in whole millionths of a US dollar: hold, the most it can cost; unknown, what is booked if it never shows how
    it ended; charge, what it did cost. ticket, result: as the upstream gave them, as JSON. cause: a fault's kind.
    """

    id: str
    job_id: str
    account_id: str
    target: str
    key: str
    image: int
    images: int
    seed: int
    body_hash: str
    hold_microusd: int
    unknown_microusd: int
    planned_at: datetime
    lane: int = 0
    state: AttemptState = AttemptState.PLANNED
    charge_microusd: int | None = None
    ticket: Mapping[str, Any] | None = None
    result: Mapping[str, Any] | None = None
    cause: str | None = None
    detail: str | None = None
    counts: Counts | None = None
    sent_at: datetime | None = None
    accepted_at: datetime | None = None
    ended_at: datetime | None = None
    settled_at: datetime | None = None


def write(connection: Connection, new: Attempt) -> None:
    """Write a new attempt, planned or, when its bytes leave as soon as this is committed, already `sending`."""
    connection.execute(_WRITE, {**asdict(new), "state": new.state.value})


_WRITE = insert(attempt)


def move(connection: Connection, attempt_id: str, to: AttemptState, now: datetime, **values: Any) -> Attempt | None:
    """Change the state if the row is in one it can be reached from, with `values`; None when it is not (any more).

    A row whose job has ended is final, but for what LATE allows.
    """
    stamp = {AttemptState.SENDING: "sent_at", AttemptState.ACCEPTED: "accepted_at"}.get(to, "ended_at")
    changed = {"state": to.value, "ended_at": None, stamp: now, **values}
    row = connection.execute(_MOVE[to], {"of_attempt": attempt_id, **changed}).one_or_none()
    if row is not None:
        return _of(row)
    return _move_late(connection, attempt_id, changed) if to in LATE else None


_OF_ATTEMPT = attempt.c.id == bindparam("of_attempt")
_CHANGE: ReturningUpdate[Any] = update(attempt).where(_OF_ATTEMPT).returning(attempt)
_MOVE: Mapping[AttemptState, ReturningUpdate[Any]] = {
    to: _CHANGE.where(attempt.c.state.in_([state.value for state in sources]), attempt.c.settled_at.is_(None))
    for to, sources in FROM.items()
}
_LATE = (
    select(attempt)
    .where(_OF_ATTEMPT, attempt.c.state == AttemptState.UNKNOWN.value, attempt.c.settled_at.is_not(None))
    .with_for_update()
)


def _move_late(connection: Connection, attempt_id: str, changed: Mapping[str, Any]) -> Attempt | None:
    """What was unknown at its job's end is known now; the sums follow."""
    before = connection.execute(_LATE, {"of_attempt": attempt_id}).one_or_none()
    if before is None:
        return None
    after = _of(connection.execute(_CHANGE, {"of_attempt": attempt_id, **changed}).one())
    assert after.charge_microusd is not None, "a late answer says what is owed"
    _count(connection, before.target, before.state, -1, -before.charge_microusd)
    _count(connection, after.target, after.state, 1, after.charge_microusd)
    return after


def book(connection: Connection, attempt_id: str, charge_microusd: int) -> None:
    """Note what an attempt has cost, before its job ends."""
    note(connection, attempt_id, charge_microusd=charge_microusd)


def note(connection: Connection, attempt_id: str, **values: Any) -> None:
    """Write facts that change no state, before the job ends."""
    unsettled = update(attempt).where(attempt.c.id == attempt_id, attempt.c.settled_at.is_(None))
    connection.execute(unsettled.values(**values))


def find(connection: Connection, attempt_id: str) -> Attempt | None:
    row = connection.execute(select(attempt).where(attempt.c.id == attempt_id)).one_or_none()
    return None if row is None else _of(row)


def of_job(connection: Connection, job_id: str) -> tuple[Attempt, ...]:
    """The job's attempts, oldest first."""
    query = select(attempt).where(attempt.c.job_id == job_id).order_by(attempt.c.planned_at, attempt.c.id)
    return tuple(_of(row) for row in connection.execute(query))


_UNSETTLED = (
    select(attempt).where(attempt.c.job_id == bindparam("of_job"), attempt.c.settled_at.is_(None)).with_for_update()
)
_SETTLE = update(attempt).where(_OF_ATTEMPT)


def settle_job(connection: Connection, job_id: str, now: datetime) -> None:
    """In the transaction that ends a job: every hold of its attempts becomes what is owed, or nothing.

    What is still open then was lost sight of: nothing was sent of a planned one, the others are unknown.
    """
    rows = connection.execute(_UNSETTLED, {"of_job": job_id}).all()
    for each in map(_of, rows):
        state, charge = each.state, each.charge_microusd
        if state is AttemptState.PLANNED:
            state, charge = AttemptState.ABANDONED, 0
        elif state in OPEN:
            state = AttemptState.UNKNOWN
        if charge is None:
            charge = {AttemptState.UNKNOWN: each.unknown_microusd, AttemptState.DONE: each.hold_microusd}.get(state, 0)
        ended = {"state": state.value, "charge_microusd": charge, "settled_at": now, "ended_at": each.ended_at or now}
        connection.execute(_SETTLE, {"of_attempt": each.id, **ended})
        _count(connection, each.target, state.value, 1, charge)


def health(connection: Connection, target: str, key: str, since: datetime) -> tuple[int, int]:
    """How many attempts with that key ended badly at a target since then, and how many ended in all."""
    query = select(attempt.c.counts, func.count()).where(
        attempt.c.target == target, attempt.c.key == key, attempt.c.ended_at > since, attempt.c.counts.is_not(None)
    )
    found = {row[0]: int(row[1]) for row in connection.execute(query.group_by(attempt.c.counts))}
    return found.get("bad", 0), sum(found.values())


def tally(connection: Connection) -> Iterator[tuple[str, str, int, int]]:
    """Settled attempts by target and state: how many, and what they cost in all."""
    for row in connection.execute(select(attempt_tally).order_by(attempt_tally.c.target, attempt_tally.c.state)):
        yield row.target, row.state, row.attempts, row.charge_microusd


def _count(connection: Connection, target: str, state: str, attempts: int, charge: int) -> None:
    row = insert_into(connection, attempt_tally).values(
        target=target, state=state, attempts=attempts, charge_microusd=charge
    )
    added = {
        "attempts": attempt_tally.c.attempts + attempts,
        "charge_microusd": attempt_tally.c.charge_microusd + charge,
    }
    connection.execute(row.on_conflict_do_update(index_elements=["target", "state"], set_=added))


def _of(row: Row[Any]) -> Attempt:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
    return replace(Attempt(**values), state=AttemptState(row.state))
