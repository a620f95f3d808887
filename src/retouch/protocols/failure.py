"""Failures as every face meets them: of an ended job, and of a method that a path does not have.

Plain values, so that the modules of a face that only shape text may use them. It shapes no answer.
"""

from __future__ import annotations

from retouch.errors import EditCancelled, Failure, RetouchError
from retouch.jobs.job import Job, JobState


class MethodNotAllowed(RetouchError):
    """A known path with a method it does not have; `allowed` as the Allow header lists them."""

    code = "method_not_allowed"

    def __init__(self, method: str, path: str, allowed: str) -> None:
        super().__init__(f"{method} is not possible on {path[:200]}; use {allowed}.")
        self.allowed = allowed


def failure_of(job: Job) -> Failure | None:
    """Why an ended job has no image; None for one that succeeded or has not ended."""
    if job.state is JobState.CANCELLED:
        return EditCancelled(f"The edit was cancelled (job {job.id}).").failure
    if job.state is JobState.FAILED:
        return job.failure or Failure("internal_error", "The edit failed.")
    return None
