"""fal's queue: submit, status, result and cancel of one request.

One route takes every path under the queue, because an endpoint id has a varying number of segments.
"""

from __future__ import annotations

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from retouch.errors import UnknownUrl
from retouch.jobs.job import Job
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.fal import streaming, wire
from retouch.protocols.fal.accept import accept_request, cancel_quietly
from retouch.protocols.fal.exchange import account_of, allow, json_response, name_request, queue_base_of, wants_logs
from retouch.protocols.fal.results import check_own, endpoint_of, own_job, result_response


async def handle(context: AppDependencies, request: Request) -> Response:
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
    if named.action == "stream":
        return await streaming.status_stream(context, request, named)
    job = await own_job(context, await account_of(context, request), named)
    return await result_response(context, request, job)


async def submit(context: AppDependencies, request: Request, path: str) -> Response:
    """Write the job and answer before anything is fetched."""
    accepted = await accept_request(context, request, path)
    if await request.is_disconnected():
        # Nobody will ever know this id, and the client is about to send the same edit again.
        await cancel_quietly(context, accepted)
    job = accepted.job
    urls = wire.RequestUrls.under(queue_base_of(context, request), endpoint_of(job).app, job.id)
    return json_response(wire.dump_submitted(job, urls, accepted.position))


async def status(context: AppDependencies, request: Request, named: wire.RequestPath) -> Response:
    _, code, body = await status_now(context, request, named)
    return json_response(body, code)


async def status_now(
    context: AppDependencies, request: Request, named: wire.RequestPath
) -> tuple[Job, int, dict[str, Any]]:
    """The job, and the HTTP status and body that tell its state.

    Polled ten times a second by each waiting caller, so it is a shared, coalesced read.
    """
    account = await account_of(context, request)
    job, position = await context.watch.snapshot(named.request_id)
    check_own(job, account, named)
    logs = None
    if wants_logs(request):
        events = await run_in_threadpool(context.service.events, job.id)
        logs = wire.dump_logs(events, wire.notices_of(job) if job.state.final else ())
    endpoint = endpoint_of(job)
    urls = wire.RequestUrls.under(queue_base_of(context, request), endpoint.app, job.id)
    return job, *wire.dump_status(job, urls, position, logs, endpoint)


async def cancel(context: AppDependencies, request: Request, named: wire.RequestPath) -> Response:
    """Queued: ended now. Running: ended at its next step. The body of the call, if any, means nothing."""
    account = await account_of(context, request)
    await own_job(context, account, named)
    await run_in_threadpool(context.service.cancel, account, named.request_id)
    return json_response({"status": "CANCELLATION_REQUESTED"}, 202)
