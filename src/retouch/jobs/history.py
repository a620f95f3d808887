"""Looks through the jobs of one account: the newest, what waits by one endpoint, and its history a page at a time.

Which of them a face lists, and what it shows of them, is the face's matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, select

from retouch.jobs import store
from retouch.jobs.fair_queue import QUEUED
from retouch.jobs.job import Job, JobState
from retouch.jobs.tables import job


def recent(connection: Connection, account_id: str, limit: int) -> tuple[Job, ...]:
    """The account's newest jobs, newest first."""
    query = select(job).where(job.c.account_id == account_id).order_by(job.c.sequence.desc()).limit(limit)
    return tuple(store.job_of(row) for row in connection.execute(query))


def waiting_of(connection: Connection, account_id: str, protocol: str, endpoint: str) -> list[str]:
    """Ids of the account's waiting jobs that came by one endpoint of a face, oldest first."""
    query = select(job.c.id, job.c.delivery).where(job.c.account_id == account_id, QUEUED).order_by(job.c.sequence)
    mount = {"protocol": protocol, "endpoint": endpoint}
    return [row.id for row in connection.execute(query) if mount.items() <= row.delivery.items()]


class Order(Enum):
    ENDED = "ended"  #: what has not ended first, then the latest end
    DURATION = "duration"  #: the longest from submit to end first; what has not ended last


@dataclass(frozen=True, slots=True)
class Listing:
    """Which jobs of an account are wanted, and in which order.

    protocol: the face they came by. endpoints: as their callers wrote them. since, until: of the submit, the second
    exclusive. job_id: this one only. outcome: called with a job's state and, of a failed one, its error code; whether
    it is wanted.
    """

    protocol: str
    endpoints: frozenset[str]
    since: datetime
    until: datetime
    job_id: str | None = None
    outcome: Callable[[JobState, str | None], bool] | None = None
    order: Order = Order.ENDED

    def takes(self, row: Row[Any]) -> bool:
        if row.delivery["protocol"] != self.protocol or row.delivery["endpoint"] not in self.endpoints:
            return False
        code = None if row.failure is None else row.failure["code"]
        return self.outcome is None or self.outcome(JobState(row.state), code)


class Page(NamedTuple):
    """Some jobs in the order of their listing. more: whether others follow."""

    jobs: tuple[Job, ...]
    more: bool


_COLUMNS: tuple[Any, ...] = (
    job.c.id,
    job.c.state,
    job.c.delivery,
    job.c.failure,
    job.c.created_at,
    job.c.finished_at,
)


_LATEST_END_FIRST = (job.c.finished_at.is_(None).desc(), job.c.finished_at.desc(), job.c.sequence.desc())


def page(connection: Connection, account_id: str, listing: Listing, *, skip: int, limit: int) -> Page:
    """The jobs after the first `skip` of a listing, at most `limit`. By end, no more rows are read than are needed."""
    query = select(*_COLUMNS).where(
        job.c.account_id == account_id, job.c.created_at >= listing.since, job.c.created_at < listing.until
    )
    if listing.job_id is not None:
        query = query.where(job.c.id.in_(store.possible((listing.job_id,))))
    ordered = query.order_by(*_LATEST_END_FIRST).execution_options(yield_per=4 * limit)
    with connection.execute(ordered) as rows:
        wanted: Iterable[Row[Any]] = (row for row in rows if listing.takes(row))
        if listing.order is Order.DURATION:
            wanted = sorted(wanted, key=_seconds, reverse=True)
        ids = [row.id for row in islice(wanted, skip, skip + limit + 1)]
    jobs = store.find_many(connection, ids[:limit])
    return Page(tuple(jobs[job_id] for job_id in ids if job_id in jobs), len(ids) > limit)


def _seconds(row: Row[Any]) -> float:
    """From submit to end; less than any for a job that has not ended."""
    return -1.0 if row.finished_at is None else (row.finished_at - row.created_at).total_seconds()
