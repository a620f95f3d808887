"""Puts the RunPod face together: its operations, errors in its shape, and paths that are a slash too long."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from retouch.errors import JobFinished, RetouchError
from retouch.jobs.job import Job
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.error_handlers import add_error_handlers
from retouch.protocols.http import (
    CLIENT_DISCONNECTED,
    DrainRefusedUploads,
    account_of,
    ended_or_disconnected,
    json_response,
    origin_of,
    read_body,
    set_request_id,
)
from retouch.protocols.outcome import MethodNotAllowed
from retouch.protocols.runpod import dump
from retouch.protocols.runpod.endpoints import endpoint_named
from retouch.protocols.runpod.errors import dump_error
from retouch.protocols.runpod.parse import parse_wait
from retouch.protocols.runpod.results import is_at, job_object, own_job
from retouch.protocols.runpod.streaming import HOLD_S, Streams, read_stream
from retouch.protocols.runpod.submit import submit_request

Handler: TypeAlias = Callable[[AppDependencies, Request], Awaitable[Response]]

CANCEL_HELD_S = 2.0
"""How long a cancel waits for the device to stop; the vendor's clients give up after three seconds."""

MAX_EMPTY_BODY_BYTES = 65_536
"""Of operations that need no body: clients send none, or `{}`."""

LISTED_REQUESTS = 100


def create_face(dependencies: AppDependencies) -> ASGIApp:
    """The RunPod protocol as an application to be mounted at `/v2`."""
    app = FastAPI(title="Retouch, RunPod protocol", openapi_url=None, docs_url=None, redoc_url=None)
    app.router.redirect_slashes = False
    streams = Streams()
    read, write, either = ["GET"], ["POST"], ["GET", "POST"]
    operations: tuple[tuple[str, list[str], Handler], ...] = (
        ("run", write, _run),
        ("runsync", write, _runsync),
        ("status/{job}", either, _status),
        ("status-sync/{job}", either, _status_sync),
        ("stream/{job}", either, partial(_stream, streams)),
        ("cancel/{job}", write, _cancel),
        ("retry/{job}", write, _retry),
        ("purge-queue", write, _purge_queue),
        ("health", read, _health),
        ("requests", read, _requests),
        ("metrics", read, _metrics),
    )
    for path, methods, handler in operations:
        app.add_route(f"/{{endpoint}}/{path}", partial(handler, dependencies), methods=methods)
    add_error_handlers(app, _answer)
    return SingleSlashes(DrainRefusedUploads(app))


async def _run(dependencies: AppDependencies, request: Request) -> Response:
    account = await account_of(dependencies.authenticator, request)
    endpoint = endpoint_named(request.path_params["endpoint"])
    job = await submit_request(dependencies, request, account, endpoint, sync=False)
    return json_response(dump.dump_state(job))


async def _runsync(dependencies: AppDependencies, request: Request) -> Response:
    account = await account_of(dependencies.authenticator, request)
    endpoint = endpoint_named(request.path_params["endpoint"])
    wait_s = parse_wait(request.query_params.get("wait"))
    job = await submit_request(dependencies, request, account, endpoint, sync=True)
    return await _held(dependencies, request, job, wait_s)


async def _status(dependencies: AppDependencies, request: Request) -> Response:
    job = await _own_job(dependencies, request)
    return await _job_response(dependencies, request, job)


async def _status_sync(dependencies: AppDependencies, request: Request) -> Response:
    wait_s = parse_wait(request.query_params.get("wait"))
    job = await _own_job(dependencies, request)
    return await _held(dependencies, request, job, wait_s)


async def _stream(streams: Streams, dependencies: AppDependencies, request: Request) -> Response:
    text = request.query_params.get("wait")
    job = await _own_job(dependencies, request)
    hold_s = HOLD_S if text is None else parse_wait(text)
    return json_response(
        await read_stream(dependencies, streams, job, origin_of(dependencies.public_url, request), hold_s=hold_s)
    )


async def _cancel(dependencies: AppDependencies, request: Request) -> Response:
    """Waits a moment for a running edit to stop. A job that has ended stays as it is."""
    job = await _own_job(dependencies, request)
    account = await account_of(dependencies.authenticator, request)
    try:
        job = await run_in_threadpool(dependencies.service.cancel, account, job.id)
        if not job.state.final:
            job = await dependencies.watch.wait(job.id, timeout_s=CANCEL_HELD_S)
    except JobFinished:
        job = await run_in_threadpool(dependencies.service.get, account, job.id)
    except TimeoutError:
        # The device is inside a long step; it stops at its end.
        return json_response({"id": dump.wire_id(job), "status": "CANCELLED"})
    return json_response(dump.dump_state(job))


async def _retry(dependencies: AppDependencies, request: Request) -> Response:
    job = await _own_job(dependencies, request)
    account = await account_of(dependencies.authenticator, request)
    return json_response(dump.dump_state(await run_in_threadpool(dependencies.service.retry, account, job.id)))


async def _purge_queue(dependencies: AppDependencies, request: Request) -> Response:
    account = await account_of(dependencies.authenticator, request)
    endpoint = endpoint_named(request.path_params["endpoint"])
    await read_body(request, MAX_EMPTY_BODY_BYTES)
    removed = await run_in_threadpool(dependencies.service.cancel_waiting, account, dump.PROTOCOL, endpoint.id)
    return json_response({"removed": removed, "status": "completed"})


async def _health(dependencies: AppDependencies, request: Request) -> Response:
    account = await account_of(dependencies.authenticator, request)
    endpoint = endpoint_named(request.path_params["endpoint"])
    queue = dependencies.catalog.route(endpoint.model).queue
    load = await run_in_threadpool(dependencies.service.queue_load, account, queue)
    return json_response(dump.dump_health(load))


async def _requests(dependencies: AppDependencies, request: Request) -> Response:
    """The newest jobs, newest first, without their outputs. The vendor documents no shape."""
    account = await account_of(dependencies.authenticator, request)
    endpoint = endpoint_named(request.path_params["endpoint"])
    jobs = await run_in_threadpool(dependencies.service.recent, account, LISTED_REQUESTS)
    return json_response({"requests": [dump.dump_job(job) for job in jobs if is_at(job, endpoint)]})


async def _metrics(dependencies: AppDependencies, request: Request) -> Response:
    await account_of(dependencies.authenticator, request)
    queue = dependencies.catalog.route(endpoint_named(request.path_params["endpoint"]).model).queue
    statistics = await run_in_threadpool(dependencies.service.statistics)
    ready = [each for each in statistics.workers if each.state == "ready" and queue in each.queues]
    return json_response({"readyWorkers": [dump.worker_id(each.name) for each in ready]})


async def _own_job(dependencies: AppDependencies, request: Request) -> Job:
    """The job that the path names, if it is the caller's; its body, which says nothing, has been read."""
    account = await account_of(dependencies.authenticator, request)
    endpoint = endpoint_named(request.path_params["endpoint"])
    await read_body(request, MAX_EMPTY_BODY_BYTES)
    job = await run_in_threadpool(own_job, dependencies, account, endpoint, request.path_params["job"])
    set_request_id(request, request.headers.get("x-request-id", job.id))
    return job


async def _held(dependencies: AppDependencies, request: Request, job: Job, wait_s: float) -> Response:
    """The job object once the job has ended or the wait is over. A caller who hangs up leaves the job running."""
    if not job.state.final:
        try:
            ended = await ended_or_disconnected(dependencies.watch, request, job.id, timeout_s=wait_s)
        except TimeoutError:
            ended = await run_in_threadpool(dependencies.service.get_any, job.id)
        if ended is None:
            return Response(status_code=CLIENT_DISCONNECTED)
        job = ended
    return await _job_response(dependencies, request, job)


async def _job_response(dependencies: AppDependencies, request: Request, job: Job) -> Response:
    origin = origin_of(dependencies.public_url, request)
    seconds_left = wait_s = None
    if not job.state.final:
        job, _, seconds_left, wait_s = await dependencies.watch.snapshot(job.id)
    describe = partial(job_object, dependencies, job, origin, wait_s=wait_s, seconds_left=seconds_left)
    wants_base64 = dump.BASE64_OPTION in job.delivery.options
    return json_response(await run_in_threadpool(describe) if wants_base64 else describe())


def _answer(_: Request, error: RetouchError) -> Response:
    status, body, headers = dump_error(error.failure)
    if isinstance(error, MethodNotAllowed):
        headers["allow"] = error.allowed
    return json_response(body, status, headers)


class SingleSlashes:
    """ASGI: a base address that ends in a slash makes paths such as `//qwen-image-edit/run`; no client needs two."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            root = scope.get("root_path", "")
            path = scope["path"].removeprefix(root)
            scope = {**scope, "path": root + (re.sub("/{2,}", "/", path).rstrip("/") or "/")}
        await self._app(scope, receive, send)
