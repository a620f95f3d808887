"""Why an ended job has no image. Plain values, so that the modules of a face that only shape text may use it."""

from __future__ import annotations

from retouch.errors import EditCancelled, Failure
from retouch.jobs.job import Job, JobState


def failure_of(job: Job) -> Failure | None:
    """Why an ended job has no image; None for one that succeeded or has not ended."""
    if job.state is JobState.CANCELLED:
        return EditCancelled(f"The edit was cancelled (job {job.id}).").failure
    if job.state is JobState.FAILED:
        return job.failure or Failure("internal_error", "The edit failed.")
    return None
