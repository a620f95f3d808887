"""The append-only history of jobs: state, steps, log lines, previews, as a reader replays them.

Events are written in the transaction that makes them true and are never changed. How often a worker reports
is the worker's business (at most four times a second).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TypeAlias

from sqlalchemy import Connection, and_, delete, insert, or_, select

from retouch.jobs.job import JobEvent
from retouch.jobs.tables import job_event

NewEvent: TypeAlias = tuple[str, Mapping[str, object]]
"""Kind and data of an event that is not written yet."""

_AT_ONCE = 50
"""Jobs read by one statement: SQLite takes no alternative of more than a thousand."""


_APPEND = insert(job_event)


def append(connection: Connection, job_id: str, now: datetime, *new: NewEvent) -> None:
    """Add events to a job's history, in order. The caller holds the job's row, so ids grow with time."""
    rows = [{"job_id": job_id, "kind": kind, "data": dict(data), "created_at": now} for kind, data in new]
    if rows:
        connection.execute(_APPEND, rows)


def read(connection: Connection, after: Mapping[str, int]) -> tuple[JobEvent, ...]:
    """The events of several jobs, of each those with an id above its own number; oldest first."""
    found: list[JobEvent] = []
    jobs = iter(after.items())
    while some := list(itertools.islice(jobs, _AT_ONCE)):
        news = or_(*(and_(job_event.c.job_id == job_id, job_event.c.id > seen) for job_id, seen in some))
        rows = connection.execute(select(job_event).where(news))
        found += (JobEvent(row.id, row.job_id, row.kind, row.data, row.created_at) for row in rows)
    return tuple(sorted(found, key=lambda event: event.id))


def previews(connection: Connection, job_ids: Iterable[str]) -> tuple[str, ...]:
    """Blob keys of the previews that the jobs' events name."""
    query = select(job_event.c.data).where(job_event.c.job_id.in_(list(job_ids)), job_event.c.kind == "preview")
    return tuple(str(data["blob"]) for data in connection.execute(query).scalars())


def forget(connection: Connection, job_id: str) -> None:
    """Remove what the events hold of the images: log lines and previews. States and steps stay."""
    connection.execute(delete(job_event).where(job_event.c.job_id == job_id, job_event.c.kind.in_(("log", "preview"))))


def forget_all(connection: Connection, job_id: str) -> None:
    """Remove a job's history, because it begins anew."""
    connection.execute(delete(job_event).where(job_event.c.job_id == job_id))
