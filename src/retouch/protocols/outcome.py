"""How a call or a job ended, as every face tells it: failures, notices, images, and when a payload is forgotten.

Plain values, so that the modules of a face that only shape text may use them. Words and shapes of an answer are the
face's matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

from retouch import images
from retouch.edit import Notice, OutputImage
from retouch.errors import EditCancelled, EditFailed, Failure, RetouchError, UnknownFile
from retouch.jobs.job import Job, JobState
from retouch.storage.blobs import Blobs

WireName = Callable[[str], str]
"""A canonical field, such as `images[0]` or `num_images`, to what the caller calls it."""


# --- failures and notices


class MethodNotAllowed(RetouchError):
    """A known path with a method it does not have; `allowed` as the Allow header lists them."""

    code = "method_not_allowed"

    def __init__(self, method: str, path: str, allowed: str) -> None:
        super().__init__(f"{method} is not possible on {path[:200]}; use {allowed}.")
        self.allowed = allowed


class JobFailed(EditFailed):
    """A job's stored failure, raised again for its caller."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message, field=failure.field, **failure.context)
        self._failure = failure

    @property
    def failure(self) -> Failure:
        return self._failure


def failure_of(job: Job) -> Failure | None:
    """Why an ended job has no image; None for one that succeeded or has not ended."""
    if job.state is JobState.CANCELLED:
        return EditCancelled(f"The edit was cancelled (job {job.id}).").failure
    if job.state is JobState.FAILED:
        return job.failure or Failure("internal_error", "The edit failed.")
    return None


def raise_for_failure(job: Job) -> None:
    """Raise JobFailed unless the ended job has images."""
    failure = failure_of(job)
    if failure is not None:
        raise JobFailed(failure)


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


# --- images


class OutputFiles(Protocol):
    """What a link takes of `AppDependencies`; the whole would bring HTTP and the database along.

    link_ttl_s: life of the links to output files, in seconds.
    """

    @property
    def blobs(self) -> Blobs: ...

    @property
    def link_ttl_s(self) -> float: ...


def output_images(job: Job) -> tuple[OutputImage, ...]:
    """The images of a succeeded job; raises UnknownFile once they are gone."""
    if job.payload_deleted or job.output is None:
        raise UnknownFile("The result was delivered once and, as asked, not kept.")
    return tuple(job.output.images)


def output_urls(files: OutputFiles, job: Job, origin: str) -> list[str]:
    """A link or, for an inline delivery, a data URI for each image; raises UnknownFile once they are gone."""
    outputs = output_images(job)
    if job.delivery.inline:
        return [images.data_uri(files.blobs.get(image.blob).data, image.media_type) for image in outputs]
    return [job_link(files, job, image.blob, origin) for image in outputs]


def job_link(files: OutputFiles, job: Job, key: str, origin: str) -> str:
    """A signed link to a file of a job, whose end depends on the job alone, so that every read gives the same text."""
    life_s = min(files.link_ttl_s, job.delivery.retention_s or math.inf)
    end = math.ceil(((job.finished_at or job.created_at) + timedelta(seconds=life_s)).timestamp())
    # Half a second before the end, because the store rounds up to whole seconds.
    ttl_s = end - 0.5 - datetime.now(UTC).timestamp()
    return files.blobs.link(key, ttl_s=ttl_s, base_url=origin)


def forgotten_on_delivery(job: Job) -> bool:
    """Whether reading this result ends its life; a webhook still to be sent needs it."""
    wanted = job.delivery.inline or not job.delivery.keep_payload
    return wanted and not job.payload_deleted and job.delivery.webhook_url is None
