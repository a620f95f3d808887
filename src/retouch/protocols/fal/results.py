"""Answers with the end of a job: the bare output, or its error in its own status.

Shared by the queue's result call, `run` and `stream`. Decides when a payload that must not be kept is
forgotten: after it has been delivered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from retouch import images
from retouch.accounts.keys import Account
from retouch.edit import OutputImage
from retouch.errors import JobNotFinished, UnknownFile, UnknownJob
from retouch.jobs.job import Job
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.fal import wire
from retouch.protocols.fal.errors import answer_to_failure
from retouch.protocols.fal.exchange import NOTICES_HEADER, error_response, files_base_of, json_response
from retouch.protocols.fal.schemas import ENDPOINTS, Endpoint

ANY_APP = "fal-ai/auto"
"""An app name that means: find the request by its id alone."""


def endpoint_of(job: Job) -> Endpoint:
    return ENDPOINTS[job.delivery.endpoint]


async def result_response(context: AppDependencies, request: Request, job: Job) -> Response:
    """The answer to a result call. Raises JobNotFinished, and UnknownFile when nothing was kept."""
    if not job.state.final:
        raise JobNotFinished("Request is still in progress")
    failure = wire.failure_of(job)
    if failure is not None:
        response = error_response(answer_to_failure(failure, endpoint_of(job)))
    else:
        body = await run_in_threadpool(dump_output, context, job, files_base_of(context, request))
        response = json_response(body, headers=notice_headers(job))
    if request.method == "HEAD" or not forgets(job):
        return response
    return _DeliveredOnce(response, partial(context.service.forget_payload, job.id))


class _DeliveredOnce(Response):
    """Sends an answer and, when it has left whole to a caller who is still there, forgets what it was made of.

    A caller who went away before the last byte may ask again.
    """

    def __init__(self, response: Response, forget: Callable[[], None]) -> None:
        super().__init__(response.body, response.status_code, dict(response.headers))
        self._forget = forget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        # Returns when the bytes before it are on their way; only then is it known whether anybody reads them.
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        gone = await Request(scope, receive).is_disconnected()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        if not gone:
            await run_in_threadpool(self._forget)


def dump_output(context: AppDependencies, job: Job, files_base: str) -> dict[str, Any]:
    """The output object with a link or a data URI for each picture. Raises UnknownFile when they are gone."""
    if job.payload_deleted or job.output is None:
        raise UnknownFile("The result was delivered once and, as asked, not kept.")
    inline = job.delivery.inline
    urls = [_data_uri(context, i) if inline else _link(context, job, i, files_base) for i in job.output.images]
    return wire.dump_result(job, endpoint_of(job), urls)


def _data_uri(context: AppDependencies, image: OutputImage) -> str:
    return images.data_uri(context.blobs.get(image.blob).data, image.media_type)


def _link(context: AppDependencies, job: Job, image: OutputImage, files_base: str) -> str:
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


async def own_job(context: AppDependencies, account: Account, named: wire.RequestPath) -> Job:
    """The job behind a request path; raises UnknownJob, also when it is another key's."""
    job = await run_in_threadpool(context.service.get, account, named.request_id)
    check_own(job, account, named)
    return job


def check_own(job: Job, account: Account, named: wire.RequestPath) -> None:
    ours = job.account_id == account.id and job.delivery.protocol == wire.PROTOCOL
    if not ours or named.base not in (endpoint_of(job).app, job.delivery.endpoint, ANY_APP):
        raise UnknownJob(f"There is no request '{named.request_id[:100]}' here.")
