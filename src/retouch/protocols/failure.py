"""Failures and notices as every face tells them: of an ended job, in the caller's own names of fields.

Plain values, so that the modules of a face that only shape text may use them. It shapes no answer and knows no vendor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from retouch.edit import Notice
from retouch.errors import EditCancelled, Failure, RetouchError
from retouch.jobs.job import Job, JobState

WireName = Callable[[str], str]
"""A canonical field, such as `images[0]` or `num_images`, to what the caller calls it."""


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


def failure_in_wire_names(failure: Failure, wire_name: WireName) -> Failure:
    """The failure with the caller's name as its field and in its sentence."""
    if failure.field is None:
        return failure
    name = wire_name(failure.field)
    return replace(failure, field=name, message=failure.message.replace(f"'{failure.field}'", f"'{name}'"))


def notices_in_wire_names(notices: Iterable[Notice], wire_name: WireName) -> tuple[Notice, ...]:
    """Each notice once, under the caller's name of its parameter."""
    return tuple(dict.fromkeys(replace(notice, parameter=wire_name(notice.parameter)) for notice in notices))


def dump_notices(notices: Iterable[Notice]) -> list[dict[str, str]]:
    """As every face puts them into its body."""
    return [{"parameter": n.parameter, "action": n.action, "detail": n.detail} for n in notices]
