"""The ledger: what each finished job used and cost, in whole millionths of a US dollar.

Entries are written in the transaction that finishes the job, at most one per job (the database refuses a
second), are never changed, and outlive the job. Prices come from the catalogue, not from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cache

from sqlalchemy import Connection, Executable, func, insert, select

from retouch.accounts.tables import account, usage_entry, usage_tally
from retouch.database import Database, insert_of
from retouch.edit import Usage


@dataclass(frozen=True, slots=True)
class UsageEntry:
    """One line of the ledger. key_id: which of the account's keys was used; empty for the anonymous account."""

    job_id: str
    account_id: str
    key_id: str
    model: str
    usage: Usage
    created_at: datetime


@dataclass(frozen=True, slots=True)
class UsageReport:
    """An account's sums by model. jobs: how many finished jobs they are of."""

    model: str
    jobs: int
    usage: Usage


@dataclass(frozen=True, slots=True)
class KeyUsage:
    """What one account has used in all, under the name its keys were made with; OTHERS for those beyond the limit."""

    name: str
    jobs: int
    images: int
    device_ms: int
    price_microusd: int


OTHERS = "(others)"

MAX_NAMES = 100
"""Accounts told apart by `usage_by_key`: each is a series that a collector of metrics keeps for ever."""

_RECORD = insert(usage_entry)
_SUMS = ("jobs", "images", "device_ms", "price_microusd")


def record(connection: Connection, entry: UsageEntry) -> None:
    """Add an entry in the transaction that finishes its job."""
    usage = entry.usage
    values = {
        "job_id": entry.job_id,
        "account_id": entry.account_id,
        "key_id": entry.key_id,
        "model": entry.model,
        "images": usage.images,
        "pixels": usage.pixels,
        "steps": usage.steps,
        "device_ms": usage.device_ms,
        "price_microusd": usage.price_microusd,
        "created_at": entry.created_at,
    }
    connection.execute(_RECORD, values)
    sums = {name: values[name] for name in _SUMS if name != "jobs"}
    connection.execute(_tally(connection.dialect.name), {"account_id": entry.account_id, "jobs": 1, **sums})


@cache
def _tally(dialect: str) -> Executable:
    row = insert_of(dialect, usage_tally)
    sums = {name: usage_tally.c[name] + row.excluded[name] for name in _SUMS}
    return row.on_conflict_do_update(index_elements=["account_id"], set_=sums)


class Ledger:
    """Reads the ledger of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def entries(self, account_id: str, *, limit: int = 100) -> tuple[UsageEntry, ...]:
        """The account's newest entries, newest first."""
        query = select(usage_entry).where(usage_entry.c.account_id == account_id)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(usage_entry.c.id.desc()).limit(limit)).all()
        return tuple(
            UsageEntry(
                row.job_id,
                row.account_id,
                row.key_id,
                row.model,
                Usage(row.images, row.pixels, row.steps, row.device_ms, row.price_microusd),
                row.created_at,
            )
            for row in rows
        )

    def by_key(self) -> tuple[KeyUsage, ...]:
        """What each account has used so far. The first MAX_NAMES by age have their names, so that no sum ever falls."""
        query = (
            select(func.coalesce(account.c.name, usage_tally.c.account_id), *(usage_tally.c[name] for name in _SUMS))
            .outerjoin_from(usage_tally, account, account.c.id == usage_tally.c.account_id)
            .order_by(account.c.created_at.is_not(None), account.c.created_at, usage_tally.c.account_id)
        )
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        named = [KeyUsage(*row) for row in rows[:MAX_NAMES]]
        if len(rows) > MAX_NAMES:
            named.append(KeyUsage(OTHERS, *(sum(row[n] for row in rows[MAX_NAMES:]) for n in range(1, 5))))
        return tuple(named)

    def report(
        self, account_id: str, *, since: datetime | None = None, until: datetime | None = None
    ) -> tuple[UsageReport, ...]:
        """The account's usage summed by model, from `since` on and before `until`."""
        sums = [func.sum(usage_entry.c[name]) for name in ("images", "pixels", "steps", "device_ms", "price_microusd")]
        query = select(usage_entry.c.model, func.count(), *sums).where(usage_entry.c.account_id == account_id)
        if since is not None:
            query = query.where(usage_entry.c.created_at >= since)
        if until is not None:
            query = query.where(usage_entry.c.created_at < until)
        with self._database.read() as connection:
            rows = connection.execute(query.group_by(usage_entry.c.model).order_by(usage_entry.c.model)).all()
        return tuple(UsageReport(row[0], row[1], Usage(*map(int, row[2:]))) for row in rows)
