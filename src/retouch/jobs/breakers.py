"""Targets that are left alone for a while because they fail, one row for each target and key.

The rows and the attempts they are judged by are in the database, so all servers of it agree. A target opens at
MIN_FAILURES failures that are half of what ended there within WINDOW_S, or at once where the fault says that nothing
sent with this key can succeed. After its pause one real edit may try it; when that fails too, the pause doubles.
Which faults count is decided by who records them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import Connection, or_, select, tuple_, update

from retouch.database import insert_into
from retouch.jobs import attempts
from retouch.jobs.tables import breaker

MIN_FAILURES = 5
MIN_SHARE = 0.5
WINDOW_S = 60.0
FIRST_PAUSE_S = 15.0
LONGEST_PAUSE_S = 300.0


class BreakerState(StrEnum):
    CLOSED = "closed"  #: as usual
    OPEN = "open"  #: nothing is sent there, unless there is nothing else
    HALF_OPEN = "half_open"  #: the next edit tries it


@dataclass(frozen=True, slots=True)
class Breaker:
    """One row. A closed one stays, so that failures from before its end are not counted again."""

    target: str
    key: str
    cause: str
    pause_s: float
    opened_at: datetime
    open_until: datetime
    probe: str | None
    probe_until: datetime | None

    def state(self, now: datetime) -> BreakerState:
        if not self.cause:
            return BreakerState.CLOSED
        if now < self.open_until or (self.probe_until is not None and now < self.probe_until):
            return BreakerState.OPEN
        return BreakerState.HALF_OPEN


def read(connection: Connection, targets: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Breaker]:
    """The breakers there are of these targets and keys."""
    wanted = list(targets)
    query = select(breaker).where(tuple_(breaker.c.target, breaker.c.key).in_(wanted))
    return {(row.target, row.key): Breaker(*row) for row in connection.execute(query)} if wanted else {}


def read_all(connection: Connection) -> tuple[Breaker, ...]:
    return tuple(Breaker(*row) for row in connection.execute(select(breaker).order_by(breaker.c.target)))


def take_probe(connection: Connection, row: Breaker, probe: str, now: datetime, until: datetime) -> bool:
    """Be the one edit that tries a half-open target; False when another is, or it is not half-open."""
    free = or_(breaker.c.probe_until.is_(None), breaker.c.probe_until <= now)
    taken = (
        update(breaker)
        .where(
            breaker.c.target == row.target,
            breaker.c.key == row.key,
            breaker.c.cause != "",
            breaker.c.open_until <= now,
            free,
        )
        .values(probe=probe, probe_until=until)
    )
    return connection.execute(taken).rowcount == 1


def give_back_probe(connection: Connection, target: str, key: str, probe: str) -> None:
    """It has ended and found nothing out: the next edit may try the target, if this one was to."""
    held = (breaker.c.target == target, breaker.c.key == key, breaker.c.probe == probe)
    connection.execute(update(breaker).where(*held).values(probe=None, probe_until=None))


def record_failure(connection: Connection, target: str, key: str, cause: str, now: datetime, *, at_once: bool) -> bool:
    """A fault that counts; the attempt's row says so already. True when the breaker opens, or opens again."""
    known = read(connection, [(target, key)]).get((target, key))
    if known is not None and known.cause:
        probing = known.probe is not None or now >= known.open_until
        pause_s = min(2 * known.pause_s, LONGEST_PAUSE_S) if probing else known.pause_s
        open_until = max(known.open_until, now + timedelta(seconds=pause_s))
        _write(connection, Breaker(target, key, cause, pause_s, known.opened_at, open_until, None, None))
        return probing
    if not at_once:
        since = now - timedelta(seconds=WINDOW_S)
        since = since if known is None else max(since, known.open_until)
        bad, ended = attempts.health(connection, target, key, since)
        if bad < MIN_FAILURES or bad < MIN_SHARE * ended:
            return False
    open_until = now + timedelta(seconds=FIRST_PAUSE_S)
    _write(connection, Breaker(target, key, cause, FIRST_PAUSE_S, now, open_until, None, None))
    return True


def record_success(connection: Connection, target: str, key: str, sent_at: datetime, now: datetime) -> bool:
    """An edit that was sent since it opened has come to its end: True when that closes it."""
    known = read(connection, [(target, key)]).get((target, key))
    if known is None or not known.cause or sent_at < known.opened_at:
        return False
    _write(connection, Breaker(target, key, "", FIRST_PAUSE_S, now, now, None, None))
    return True


def _write(connection: Connection, row: Breaker) -> None:
    values = {name: getattr(row, name) for name in Breaker.__slots__}
    changed = {name: value for name, value in values.items() if name not in ("target", "key")}
    new = insert_into(connection, breaker).values(**values)
    connection.execute(new.on_conflict_do_update(index_elements=["target", "key"], set_=changed))
