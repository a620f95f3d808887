"""fal's queue: submit, status, result and cancel of one request.

One route takes every path under the queue, because an endpoint id has a varying number of segments.
"""

from __future__ import annotations

import contextlib

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from retouch.accounts.keys import Account
from retouch.errors import JobFinished, UnknownJob, UnknownUrl
from retouch.jobs.job import Job
from retouch.protocols.context import FaceContext
from retouch.protocols.fal import wire
from retouch.protocols.fal.accept import Accepted, Call, accept
from retouch.protocols.fal.exchange import (
    account_of,
    allow,
    files_base_of,
    json_response,
    name_request,
    queue_base_of,
    read_body,
)
from retouch.protocols.fal.results import endpoint_of, result_response
from retouch.protocols.fal.schemas import endpoint_named

ANY_APP = "fal-ai/auto"
"""An app name that means: find the request by its id alone."""


async def handle(context: FaceContext, request: Request) -> Response:
    """Every method and path under the queue."""
    path: str = request.path_params["path"]
    named = wire.parse_request_path(path)
    if named is None:
        if "/requests/" in path:
            raise UnknownUrl(f"Path /{path[:200]} not found")
        return await submit(context, request, path)
    name_request(request, named.request_id)
    if named.action == "cancel":
        allow(request, "PUT")
        return await cancel(context, request, named)
    allow(request, "GET")
    if named.action == "status":
        return await status(context, request, named)
    job = await own_job(context, await account_of(context, request), named)
    return await result_response(context, request, job)


async def submit(context: FaceContext, request: Request, path: str) -> Response:
    """Write the job and answer before anything is fetched."""
    accepted = await accept_request(context, request, path)
    if await request.is_disconnected():
        # Nobody will ever know this id, and the client is about to send the same edit again.
        await cancel_quietly(context, accepted)
    job = accepted.job
    urls = wire.RequestUrls.under(queue_base_of(context, request), endpoint_of(job).app, job.id)
    return json_response(wire.dump_submitted(job, urls, accepted.position))


async def accept_request(context: FaceContext, request: Request, path: str) -> Accepted:
    """From an HTTP request for an endpoint to its job; also used by `run` and `stream`."""
    account = await account_of(context, request)
    endpoint = endpoint_named(path.strip("/"))
    request.state.endpoint = endpoint
    allow(request, *(("GET", "POST", "PUT", "PATCH") if request.query_params else ("POST", "PUT", "PATCH")))
    in_query = request.method in ("GET", "HEAD")
    body = None if in_query else await read_body(request, context.max_body_bytes)
    call = Call(
        account,
        endpoint,
        headers=dict(request.headers),
        query=request.query_params.multi_items(),
        body=body,
        files_base=files_base_of(context, request),
    )
    accepted = await run_in_threadpool(accept, context, call)
    name_request(request, accepted.job.id)
    return accepted


async def status(context: FaceContext, request: Request, named: wire.RequestPath) -> Response:
    """The state now. Polled ten times a second by each waiting caller, so it is a shared, coalesced read."""
    account = await account_of(context, request)
    job, position = await context.watch.snapshot(named.request_id)
    check_own(job, account, named)
    logs = None
    if request.query_params.get("logs", "").lower() in ("1", "true"):
        events = await run_in_threadpool(context.service.events, job.id)
        logs = wire.dump_logs(events, wire.notices_of(job) if job.state.final else ())
    endpoint = endpoint_of(job)
    urls = wire.RequestUrls.under(queue_base_of(context, request), endpoint.app, job.id)
    code, body = wire.dump_status(job, urls, position, logs, endpoint)
    return json_response(body, code)


async def cancel(context: FaceContext, request: Request, named: wire.RequestPath) -> Response:
    """Queued: ended now. Running: ended at its next step. The body of the call, if any, means nothing."""
    account = await account_of(context, request)
    await own_job(context, account, named)
    await run_in_threadpool(context.service.cancel, account, named.request_id)
    return json_response({"status": "CANCELLATION_REQUESTED"}, 202)


async def cancel_quietly(context: FaceContext, accepted: Accepted) -> None:
    """Cancel a job whose caller is gone; one that has ended, or that others wait for too, is left as it is."""
    if accepted.replayed:
        return
    with contextlib.suppress(JobFinished):
        await run_in_threadpool(context.service.cancel, accepted.account, accepted.job.id)


async def own_job(context: FaceContext, account: Account, named: wire.RequestPath) -> Job:
    """The job behind a request path; raises UnknownJob, also when it is another key's."""
    job = await run_in_threadpool(context.service.get, account, named.request_id)
    check_own(job, account, named)
    return job


def check_own(job: Job, account: Account, named: wire.RequestPath) -> None:
    ours = job.account_id == account.id and job.delivery.protocol == wire.PROTOCOL
    if not ours or named.base not in (endpoint_of(job).app, job.delivery.endpoint, ANY_APP):
        raise UnknownJob(f"There is no request '{named.request_id[:100]}' here.")
