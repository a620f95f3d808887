"""How a job ended, for every face: its failure, its images as links or data URIs, and when its payload is forgotten.

Reads finished jobs; words and shapes of the answer are the face's matter.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from retouch import images
from retouch.edit import OutputImage
from retouch.errors import EditFailed, Failure, UnknownFile
from retouch.jobs.job import Job
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.failure import failure_of


class JobFailed(EditFailed):
    """A job's stored failure, raised again for its caller."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message, field=failure.field, **failure.context)
        self._failure = failure

    @property
    def failure(self) -> Failure:
        return self._failure


def raise_for_failure(job: Job) -> None:
    """Raise JobFailed unless the ended job has images."""
    failure = failure_of(job)
    if failure is not None:
        raise JobFailed(failure)


def output_link(dependencies: AppDependencies, job: Job, image: OutputImage, origin: str) -> str:
    """The `job_link` of one of its images."""
    return job_link(dependencies, job, image.blob, origin)


def job_link(dependencies: AppDependencies, job: Job, key: str, origin: str) -> str:
    """A signed link to a file of a job, whose end depends on the job alone, so that every read gives the same text."""
    life_s = min(dependencies.link_ttl_s, job.delivery.retention_s or math.inf)
    end = math.ceil(((job.finished_at or job.created_at) + timedelta(seconds=life_s)).timestamp())
    # Half a second before the end, because the store rounds up to whole seconds.
    ttl_s = end - 0.5 - datetime.now(UTC).timestamp()
    return dependencies.blobs.link(key, ttl_s=ttl_s, base_url=origin)


def output_data_uri(dependencies: AppDependencies, image: OutputImage) -> str:
    return images.data_uri(dependencies.blobs.get(image.blob).data, image.media_type)


def output_images(job: Job) -> tuple[OutputImage, ...]:
    """The images of a succeeded job; raises UnknownFile once they are gone."""
    if job.payload_deleted or job.output is None:
        raise UnknownFile("The result was delivered once and, as asked, not kept.")
    return tuple(job.output.images)


def output_urls(dependencies: AppDependencies, job: Job, origin: str) -> list[str]:
    """A link or, for an inline delivery, a data URI for each image; raises UnknownFile once they are gone."""
    if job.delivery.inline:
        return [output_data_uri(dependencies, image) for image in output_images(job)]
    return [output_link(dependencies, job, image, origin) for image in output_images(job)]


def forgotten_on_delivery(job: Job) -> bool:
    """Whether reading this result ends its life; a webhook still to be sent needs it."""
    wanted = job.delivery.inline or not job.delivery.keep_payload
    return wanted and not job.payload_deleted and job.delivery.webhook_url is None


class TrackedResponse(Response):
    """Sends an answer and then calls `sent`, with whether it left whole to a caller who is still there."""

    def __init__(self, response: Response, sent: Callable[[bool], Awaitable[None]]) -> None:
        super().__init__(response.body, response.status_code, dict(response.headers))
        self._sent = sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        delivered = False
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": self.body, "more_body": True})
            # Returns when the bytes before it are on their way; only then is it known whether anyone reads them.
            await send({"type": "http.response.body", "body": b"", "more_body": True})
            gone = await Request(scope, receive).is_disconnected()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            delivered = not gone
        finally:
            await self._sent(delivered)


class DeliveredOnce(TrackedResponse):
    """Sends an answer and, once it is delivered, calls `forget` on a thread.

    A caller who went away before the last byte may ask again.
    """

    def __init__(self, response: Response, forget: Callable[[], None]) -> None:
        async def sent(delivered: bool) -> None:
            if delivered:
                await run_in_threadpool(forget)

        super().__init__(response, sent)
