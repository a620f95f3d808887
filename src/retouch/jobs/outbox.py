"""The webhooks that ended jobs owe their callers, one row per job, written where the job ends.

A row is a promise, not a message: it names the job and the address, and the answer is put together when it is
sent. Sending, signing and the pauses between tries are not here.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, insert

from retouch.jobs.job import Job
from retouch.jobs.tables import webhook_outbox


def promise(connection: Connection, ended: Job, now: datetime) -> None:
    """Note that the caller of a job that has just ended wants to be told, if it said so."""
    if ended.delivery.webhook_url is None:
        return
    values = {"job_id": ended.id, "url": ended.delivery.webhook_url, "created_at": now}
    connection.execute(insert(webhook_outbox).values(**values, attempts=0, next_attempt_at=now))
