"""The ledger: what each finished job used and cost, in whole millionths of a US dollar.

Entries are written in the transaction that finishes the job, at most one per job (the database refuses a
second), are never changed, and outlive the job. Prices come from the catalogue, not from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, insert, select

from retouch.accounts.tables import usage_entry
from retouch.database import Database
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


_RECORD = insert(usage_entry)


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
