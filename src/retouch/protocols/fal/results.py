"""Answers with the end of a job: the bare output, or its error in its own status.

Shared by the queue's result call, `run` and `stream`. Decides when a payload that must not be kept is
forgotten: after it has been delivered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from retouch import images
from retouch.edit import OutputImage
from retouch.errors import JobNotFinished, UnknownFile
from retouch.jobs.job import Job
from retouch.protocols.context import FaceContext
from retouch.protocols.fal import wire
from retouch.protocols.fal.errors import answer_to_failure
from retouch.protocols.fal.exchange import NOTICES_HEADER, error_response, files_base_of, json_response
from retouch.protocols.fal.schemas import ENDPOINTS, Endpoint


def endpoint_of(job: Job) -> Endpoint:
    return ENDPOINTS[job.delivery.endpoint]


async def result_response(context: FaceContext, request: Request, job: Job) -> Response:
    """The answer to a result call. Raises JobNotFinished, and UnknownFile when nothing was kept."""
    if not job.state.final:
        raise JobNotFinished("Request is still in progress")
    failure = wire.failure_of(job)
    if failure is not None:
        response = error_response(answer_to_failure(failure, endpoint_of(job)))
    else:
        body = await run_in_threadpool(dump_output, context, job, files_base_of(context, request))
        response = json_response(body, headers=notice_headers(job))
    if forgets(job):
        response.background = BackgroundTask(_forget_delivered, context, request, job)
    return response


def dump_output(context: FaceContext, job: Job, files_base: str) -> dict[str, Any]:
    """The output object with a link or a data URI for each picture. Raises UnknownFile when they are gone."""
    if job.payload_deleted or job.output is None:
        raise UnknownFile("The result was delivered once and, as asked, not kept.")
    inline = job.delivery.inline
    urls = [_data_uri(context, i) if inline else _link(context, job, i, files_base) for i in job.output.images]
    return wire.dump_result(job, endpoint_of(job), urls)


def _data_uri(context: FaceContext, image: OutputImage) -> str:
    return images.data_uri(context.blobs.get(image.blob).data, image.media_type)


def _link(context: FaceContext, job: Job, image: OutputImage, files_base: str) -> str:
    """A link whose end depends on the job alone, so that every read of a result gives the same text."""
    assert job.finished_at is not None, "a succeeded job has ended"
    life_s = min(context.link_ttl_s, job.delivery.retention_s or math.inf)
    end = math.ceil((job.finished_at + timedelta(seconds=life_s)).timestamp())
    # Half a second before the end, because the store rounds up to whole seconds.
    return context.blobs.link(image.blob, ttl_s=end - 0.5 - datetime.now(UTC).timestamp(), base_url=files_base)


def notice_headers(job: Job) -> Mapping[str, str]:
    """Whatever was not done as written, for programs that read headers."""
    notices = wire.notices_of(job)
    return {NOTICES_HEADER: wire.dump_notices(notices)} if notices else {}


def forgets(job: Job) -> bool:
    """Whether reading this result ends its life; a webhook still to be sent needs it."""
    wanted = job.delivery.inline or not job.delivery.keep_payload
    return wanted and not job.payload_deleted and job.delivery.webhook_url is None


async def _forget_delivered(context: FaceContext, request: Request, job: Job) -> None:
    """A caller that went away before the last byte may ask again."""
    if not await request.is_disconnected():
        await run_in_threadpool(context.service.forget_payload, job.id)
