"""The webhooks that ended jobs owe their callers, one row per job, written where the job ends.

A row holds no message: it names the job and the address, and the answer is put together when it is
sent. Putting it together, signing and sending are not here; when to try again is.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, select, update

from retouch.database import insert_into
from retouch.jobs.job import Job
from retouch.jobs.tables import webhook_outbox


@dataclass(frozen=True, slots=True)
class RetrySchedule:
    """How often a webhook is tried and the pauses in between: `first_pause_s`, each later one `pause_growth` longer."""

    attempts: int
    first_pause_s: float
    pause_growth: float


PATIENT = RetrySchedule(attempts=10, first_pause_s=2.0, pause_growth=2.6)
"""Pauses of 2, 5, 14, 35 seconds and so on to 70 minutes: ten attempts within two hours."""


@dataclass(frozen=True, slots=True)
class WebhookDelivery:
    """A webhook that is owed, or was. attempts: tries begun. next_attempt_at None: delivered, or given up."""

    id: int
    job_id: str
    url: str
    attempts: int
    created_at: datetime
    next_attempt_at: datetime | None
    delivered_at: datetime | None
    last_error: str | None


def enqueue(connection: Connection, ended: Job, now: datetime) -> None:
    """Owe the caller of a job that has just ended its webhook; one that was retried and ends again owes it again."""
    owed = {"created_at": now, "attempts": 0, "next_attempt_at": now, "delivered_at": None, "last_error": None}
    row = insert_into(connection, webhook_outbox).values(job_id=ended.id, url=ended.delivery.webhook_url, **owed)
    connection.execute(row.on_conflict_do_update(index_elements=["job_id"], set_=owed))


def any_due(connection: Connection, now: datetime) -> bool:
    """Whether there is anything to take; a look that takes no writer's turn."""
    due = select(webhook_outbox.c.id).where(webhook_outbox.c.next_attempt_at <= now).limit(1)
    return connection.execute(due).first() is not None


def take_due(connection: Connection, now: datetime, limit: int, busy_s: float) -> tuple[WebhookDelivery, ...]:
    """Deliveries whose time has come, marked as being tried.

    What a process leaves behind that dies while trying is due again after `busy_s`. So a webhook may arrive twice
    and is never lost.
    """
    due = (
        select(webhook_outbox.c.id)
        .where(webhook_outbox.c.next_attempt_at <= now)
        .order_by(webhook_outbox.c.next_attempt_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    ids = connection.execute(due).scalars().all()
    if not ids:
        return ()
    taken = (
        update(webhook_outbox)
        .where(webhook_outbox.c.id.in_(ids))
        .values(attempts=webhook_outbox.c.attempts + 1, next_attempt_at=now + timedelta(seconds=busy_s))
        .returning(webhook_outbox)
    )
    return tuple(_delivery_of(row) for row in connection.execute(taken))


def delivered(connection: Connection, delivery_id: int, now: datetime) -> None:
    """The receiver has acknowledged it."""
    values = {"delivered_at": now, "next_attempt_at": None, "last_error": None}
    connection.execute(update(webhook_outbox).where(webhook_outbox.c.id == delivery_id).values(**values))


def failed(
    connection: Connection,
    tried: WebhookDelivery,
    now: datetime,
    error: str,
    *,
    for_good: bool,
    schedule: RetrySchedule = PATIENT,
) -> bool:
    """An attempt came to nothing; True when it was the last. for_good: another attempt cannot help."""
    last = for_good or tried.attempts >= schedule.attempts
    pause_s = schedule.first_pause_s * schedule.pause_growth ** (tried.attempts - 1)
    values = {"last_error": error, "next_attempt_at": None if last else now + timedelta(seconds=pause_s)}
    connection.execute(update(webhook_outbox).where(webhook_outbox.c.id == tried.id).values(**values))
    return last


def given_up(connection: Connection) -> tuple[WebhookDelivery, ...]:
    """Deliveries that will not be tried again although they were never acknowledged, oldest first."""
    table = webhook_outbox.c
    query = select(webhook_outbox).where(table.next_attempt_at.is_(None), table.delivered_at.is_(None))
    return tuple(_delivery_of(row) for row in connection.execute(query.order_by(table.id)))


def try_again(connection: Connection, job_id: str, now: datetime) -> bool:
    """Begin all attempts anew, also after a delivery; False when the job owes no webhook."""
    again = (
        update(webhook_outbox)
        .where(webhook_outbox.c.job_id == job_id)
        .values(attempts=0, next_attempt_at=now, delivered_at=None, last_error=None)
        .returning(webhook_outbox.c.id)
    )
    return connection.execute(again).one_or_none() is not None


def _delivery_of(row: Row[Any]) -> WebhookDelivery:
    return WebhookDelivery(
        row.id,
        row.job_id,
        row.url,
        row.attempts,
        row.created_at,
        row.next_attempt_at,
        row.delivered_at,
        row.last_error,
    )
