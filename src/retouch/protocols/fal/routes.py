"""The fal protocol over HTTP: its paths, `run`, the queue, and errors in fal's shapes.

One route takes every path under `run` and the queue, because an endpoint id has a varying number of segments.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute

from retouch.accounts.keys import Account
from retouch.errors import EditCancelled, JobNotFinished, RetouchError, UnknownJob, UnknownUrl
from retouch.jobs.job import Job
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.error_handlers import add_error_handlers
from retouch.protocols.fal import api_docs, dump, platform, realtime, storage, streaming
from retouch.protocols.fal.dump import BILLABLE_UNITS_HEADER, NOTICES_HEADER, endpoint_of
from retouch.protocols.fal.errors import Answer, answer_to, answer_to_failure, check_method
from retouch.protocols.fal.parse import RequestPath, parse_request_path
from retouch.protocols.fal.submit import PROTOCOL, submit_request
from retouch.protocols.fal.vendor_hosts import Proxy, files_origin_of, queue_url_of
from retouch.protocols.http import DeliveredOnce, account_of, ended_or_disconnected, json_response, set_request_id
from retouch.protocols.outcome import failure_of, forgotten_on_delivery, output_urls
from retouch.protocols.submit import cancel_abandoned

Handler: TypeAlias = Callable[[AppDependencies, Request], Awaitable[Response]]
Respond: TypeAlias = Callable[[Request, Answer], Response]

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""Every route takes them all and refuses in fal's own shape; the vendor's clients may use any for `run`."""

ANY_APP = "fal-ai/auto"
"""An app name that means: find the request by its id alone."""


def create_face(dependencies: AppDependencies) -> Starlette:
    """The fal protocol as an application to be mounted at `/fal`."""
    handlers: Mapping[str, Handler] = {
        "/queue/{path:path}": queue,
        "/run/{path:path}": run,
        "/rest/{path:path}": storage.rest,
        "/cdn/{path:path}": storage.cdn,
        "/models/{path:path}": api_docs.llms,
        "/openapi.json": api_docs.openapi,
        "/api/openapi/queue/openapi.json": api_docs.openapi,
    }
    routes: list[BaseRoute] = [route(dependencies, path, handler) for path, handler in handlers.items()]
    routes.append(WebSocketRoute("/run/{path:path}", partial(realtime.handle, dependencies)))
    platform_route = route(dependencies, "/{path:path}", platform.handle)
    routes.append(Mount("/api/v1", create_app([platform_route], platform.error_response)))
    app = create_app(routes, lambda _, answer: error_response(answer))
    for path in ("/proxy", "/proxy/"):
        app.router.routes.append(Route(path, Proxy(app.router), methods=list(METHODS)))
    return app


def create_app(routes: Sequence[BaseRoute], respond: Respond) -> Starlette:
    """An application with the error shapes of this face. respond: an error as its caller reads it."""
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False

    def answer(request: Request, error: RetouchError) -> Response:
        return respond(request, answer_to(error, getattr(request.state, "endpoint", None)))

    add_error_handlers(app, answer, unknown_url="Path {path} not found")
    return app


def route(dependencies: AppDependencies, path: str, handler: Handler) -> Route:
    """Send every method of a path to `handler`."""
    return Route(path, partial(handler, dependencies), methods=list(METHODS))


# --- run


async def run(dependencies: AppDependencies, request: Request) -> Response:
    """The synchronous call: a job like any other, with its caller waiting. A caller who hangs up cancels it.

    A path that ends in `/stream` answers with events.
    """
    path = request.path_params["path"].rstrip("/")
    account, submitted = await submit_request(dependencies, request, path.removesuffix(streaming.SUFFIX))
    if path.endswith(streaming.SUFFIX):
        frames = await streaming.stream(dependencies, request, account, submitted)
        if frames is not None:
            return frames
    ended = await ended_or_disconnected(dependencies.watch, request, submitted.job.id)
    if ended is None:
        await cancel_abandoned(dependencies, account, submitted)
        return error_response(answer_to(EditCancelled("The caller hung up.")))
    return await result_response(dependencies, request, ended)


# --- the queue


async def queue(dependencies: AppDependencies, request: Request) -> Response:
    """Every method and path under the queue: submit, status, result, cancel."""
    path: str = request.path_params["path"]
    named = parse_request_path(path)
    if named is None:
        if "/requests/" in path:
            raise UnknownUrl(f"Path /{path[:200]} not found")
        return await submit(dependencies, request, path)
    set_request_id(request, named.request_id)
    if named.action == "cancel":
        check_method(request.method, path, "PUT")
        account = await account_of(dependencies.authenticator, request)
        await own_job(dependencies, account, named)
        # Waiting: ended now. Running: ended at its next step. The body of the call, if any, means nothing.
        await run_in_threadpool(dependencies.service.cancel, account, named.request_id)
        return json_response({"status": "CANCELLATION_REQUESTED"}, 202)
    check_method(request.method, path, "GET")
    if named.action == "status":
        _, code, body = await status_now(dependencies, request, named)
        return json_response(body, code)
    job = await own_job(dependencies, await account_of(dependencies.authenticator, request), named)
    if named.action == "stream":
        urls = dump.RequestUrls.under(queue_url_of(dependencies, request), endpoint_of(job).app, job.id)
        return streaming.status_stream(dependencies, job, urls, logs=wants_logs(request))
    return await result_response(dependencies, request, job)


async def submit(dependencies: AppDependencies, request: Request, path: str) -> Response:
    """Write the job and answer before anything is fetched."""
    account, submitted = await submit_request(dependencies, request, path)
    job = submitted.job
    if await request.is_disconnected():
        # No caller will ever know this id, and the client is about to send the same edit again.
        await cancel_abandoned(dependencies, account, submitted)
    position = await run_in_threadpool(dependencies.service.position, job)
    urls = dump.RequestUrls.under(queue_url_of(dependencies, request), endpoint_of(job).app, job.id)
    return json_response(dump.dump_submitted(job, urls, position))


async def status_now(
    dependencies: AppDependencies, request: Request, named: RequestPath
) -> tuple[Job, int, dict[str, Any]]:
    """The job, and the HTTP status and body that tell its state.

    Polled ten times a second by each waiting caller, so it is a shared, coalesced read.
    """
    account = await account_of(dependencies.authenticator, request)
    job, position, seconds_left, _ = await dependencies.watch.snapshot(named.request_id)
    check_own(job, account, named)
    logs = None
    if wants_logs(request):
        logs = dump.dump_logs(job, await run_in_threadpool(dependencies.service.events, job.id))
    urls = dump.RequestUrls.under(queue_url_of(dependencies, request), endpoint_of(job).app, job.id)
    return job, *dump.dump_status(job, urls, position, logs, seconds_left=seconds_left)


async def result_response(dependencies: AppDependencies, request: Request, job: Job) -> Response:
    """The bare output, or the error in its own status. Raises JobNotFinished, and UnknownFile when nothing was kept.

    What must not be kept is forgotten once it has been delivered.
    """
    if not job.state.final:
        raise JobNotFinished("Request is still in progress")
    failure = failure_of(job)
    if failure is not None:
        response = error_response(answer_to_failure(failure, endpoint_of(job)))
    else:
        origin = files_origin_of(dependencies, request)
        urls = await run_in_threadpool(output_urls, dependencies, job, origin)
        headers = {BILLABLE_UNITS_HEADER: dump.billable_units(job)}
        if notices := dump.notices_of(job):
            headers[NOTICES_HEADER] = dump.notices_header(notices)
        response = json_response(dump.dump_result(job, urls), headers=headers)
    if request.method == "HEAD" or not forgotten_on_delivery(job):
        return response
    return DeliveredOnce(response, partial(dependencies.service.forget_payload, job.id))


async def own_job(dependencies: AppDependencies, account: Account, named: RequestPath) -> Job:
    """The job behind a request path; raises UnknownJob, also when it is another key's."""
    job = await run_in_threadpool(dependencies.service.get, account, named.request_id)
    check_own(job, account, named)
    return job


def check_own(job: Job, account: Account, named: RequestPath) -> None:
    """Raise UnknownJob unless the job is the account's, of this face, and of the app that the path names."""
    ours = job.account_id == account.id and job.delivery.protocol == PROTOCOL
    if not ours or named.base not in (endpoint_of(job).app, job.delivery.endpoint, ANY_APP):
        raise UnknownJob(f"There is no request '{named.request_id[:100]}' here.")


# --- one exchange


def wants_logs(request: Request) -> bool:
    """One client says true, the other 1."""
    return request.query_params.get("logs", "").lower() in ("1", "true")


def error_response(answer: Answer) -> Response:
    return json_response(answer.body, answer.status, answer.headers)
