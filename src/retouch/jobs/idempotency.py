"""Remembers idempotency keys for a day, so that a repeated submit joins the job of the first one.

Keys are per account. What a body hash covers is decided by the face that computes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, select, tuple_

from retouch.database import insert_into
from retouch.errors import IdempotencyKeyReused
from retouch.jobs.job import Idempotency
from retouch.jobs.tables import idempotency

LIFE = timedelta(hours=24)
"""After this the same key starts a new job."""


def remember(connection: Connection, account_id: str, given: Idempotency, job_id: str, now: datetime) -> str:
    """Bind the key to `job_id`, or return the id of the job it is bound to already.

    Of two submits at the same moment the second waits here until the first has committed or failed.
    Raises IdempotencyKeyReused when the key came with another body.
    """
    # Of one length, so that any key fits the index of any database.
    key = hashlib.sha256(given.key.encode("utf-8", "surrogatepass")).hexdigest()
    own = (idempotency.c.account_id == account_id, idempotency.c.key == key)
    connection.execute(delete(idempotency).where(*own, idempotency.c.expires_at <= now))
    row = insert_into(connection, idempotency).values(
        account_id=account_id, key=key, body_hash=given.body_hash, job_id=job_id, expires_at=now + LIFE
    )
    if connection.execute(row.on_conflict_do_nothing()).rowcount == 1:
        return job_id
    known = connection.execute(select(idempotency.c.body_hash, idempotency.c.job_id).where(*own)).one()
    if known.body_hash != given.body_hash:
        raise IdempotencyKeyReused("This idempotency key was used with another request in the last 24 hours.")
    return str(known.job_id)


def forget(connection: Connection, job_ids: Sequence[str], now: datetime) -> None:
    """Drop the keys of jobs that are deleted, and those whose day is over."""
    own = (idempotency.c.account_id, idempotency.c.key)
    gone = select(*own).where(idempotency.c.job_id.in_(job_ids) | (idempotency.c.expires_at <= now))
    connection.execute(delete(idempotency).where(tuple_(*own).in_(gone.with_for_update(skip_locked=True))))
