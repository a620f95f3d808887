"""What goes when a job goes: its row, its history, its idempotency keys, and the files that are its own.

Files are named here and deleted by the caller. Usage entries stay. A file that the owner uploaded to use it
again, or that another job made, is not the job's own; it goes when its own time is over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy import Connection

from retouch.jobs import events, idempotency, liveness, store
from retouch.jobs.job import Job


def blobs_of(connection: Connection, jobs: Iterable[Job]) -> tuple[str, ...]:
    """Keys of the files that belong to these jobs alone: outputs, previews, and images that came in the request."""
    jobs = tuple(jobs)
    keys: list[str] = []
    for job in jobs:
        inputs = job.request.images if job.request.mask is None else (*job.request.images, job.request.mask)
        keys += (image.blob for image in inputs if image.blob is not None and image.owned)
        keys += (image.blob for image in (job.output.images if job.output else ()))
    return tuple(dict.fromkeys([*keys, *events.previews(connection, [job.id for job in jobs])]))


def remove(connection: Connection, job_ids: Sequence[str], now: datetime) -> None:
    """Delete the rows of these finished jobs, and small things whose time is over anyway."""
    store.remove(connection, job_ids)
    idempotency.forget(connection, job_ids, now)
    liveness.prune(connection, now)
