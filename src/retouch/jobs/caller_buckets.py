"""The buckets that callers want their images in, with the keys they gave for it, from the submit to the job's end.

Kept apart from the job, so that a reader of jobs cannot show a secret. Nothing is put into a bucket here.
"""

from __future__ import annotations

from dataclasses import asdict

from sqlalchemy import Connection, delete, insert, select

from retouch.edit import Bucket
from retouch.jobs.tables import caller_bucket


def keep(connection: Connection, job_id: str, bucket: Bucket) -> None:
    connection.execute(insert(caller_bucket).values(job_id=job_id, bucket=asdict(bucket)))


def read(connection: Connection, job_id: str) -> Bucket | None:
    """None when the job has none, or has ended."""
    values = connection.execute(select(caller_bucket.c.bucket).where(caller_bucket.c.job_id == job_id)).scalar()
    return None if values is None else Bucket(**values)


def forget(connection: Connection, job_id: str) -> None:
    connection.execute(delete(caller_bucket).where(caller_bucket.c.job_id == job_id))
