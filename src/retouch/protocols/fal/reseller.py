"""The shape in which resellers pass fal's queue on: paths without a service, `Bearer` keys, patient results.

With `Authorization: Key` the same paths answer by fal's own rules. Callers who poll a reseller's result in a
loop take any `status` for "not yet", so a result that is not there is a 200 with one, held for a moment,
and a failure never is. It adds no way to submit or to pay.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from retouch.errors import UnknownUrl
from retouch.jobs.job import Job, JobState
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.fal import queue, wire
from retouch.protocols.fal.errors import Answer, answer_to_failure
from retouch.protocols.fal.exchange import (
    QUEUE_BASE,
    REQUEST_ID_HEADER,
    account_of,
    allow,
    error_response,
    files_base_of,
    json_response,
    name_request,
    origin_of,
)
from retouch.protocols.fal.results import dump_output, endpoint_of, own_job, result_response
from retouch.protocols.fal.routes import add_manners, route

HOLD_S = 2.0
"""How long a result that is not there yet is waited for: some callers poll without a pause."""

OWNER = "fal-ai"
"""What this face is mounted at, and what its paths therefore leave out of an endpoint's id."""

QUOTA_PER_DOLLAR = 500_000
"""The unit in which such gateways count money."""

ID_HEADERS = (REQUEST_ID_HEADER, "x-oneapi-request-id")


def create_face(context: AppDependencies) -> FastAPI:
    """The reseller shape as an application to be mounted at `/fal-ai`."""
    app = FastAPI(title="Retouch, reseller shape", openapi_url=None, docs_url=None, redoc_url=None)
    app.router.redirect_slashes = False
    route(app, context, "/{path:path}", _handle)
    add_manners(app, _respond, ID_HEADERS)
    return app


def create_usage_face(context: AppDependencies) -> FastAPI:
    """What a key has used, as an application to be mounted at `/api/usage`."""
    app = FastAPI(title="Retouch, usage of a key", openapi_url=None, docs_url=None, redoc_url=None)
    app.router.redirect_slashes = False
    route(app, context, "/{path:path}", _usage)
    add_manners(app, _respond, ID_HEADERS)
    return app


async def _handle(context: AppDependencies, request: Request) -> Response:
    request.scope[QUEUE_BASE] = origin_of(context, request)
    path = f"{OWNER}/{request.path_params['path']}"
    request.path_params["path"] = path
    named = wire.parse_request_path(path)
    if named is None or not _is_bearer(request) or named.action not in ("result", "status"):
        return await queue.handle(context, request)
    name_request(request, named.request_id)
    allow(request, "GET")
    if named.action == "result":
        return await _result(context, request, named)
    return await _status(context, request, named)


async def _result(context: AppDependencies, request: Request, named: wire.RequestPath) -> Response:
    """The output, an error, or after a moment the word that it is not there yet."""
    job = await own_job(context, await account_of(context, request), named)
    if not job.state.final:
        try:
            job = await context.watch.wait(job.id, timeout_s=HOLD_S)
        except TimeoutError:
            urls = wire.RequestUrls.under(origin_of(context, request), endpoint_of(job).app, job.id)
            return json_response({**wire.dump_status(job, urls, 0, None, endpoint_of(job))[1], "status": "IN_QUEUE"})
    failure = wire.failure_of(job)
    if failure is not None:
        return _respond(request, answer_to_failure(failure, endpoint_of(job)))
    return await result_response(context, request, job)


async def _status(context: AppDependencies, request: Request, named: wire.RequestPath) -> Response:
    """fal's status, and the pictures beside it once they are there: some callers look no further."""
    job, status, body = await queue.status_now(context, request, named)
    return json_response({**body, **await _pictures(context, request, job)}, status)


async def _pictures(context: AppDependencies, request: Request, job: Job) -> dict[str, Any]:
    if job.state is not JobState.SUCCEEDED or job.payload_deleted:
        return {}
    output = await run_in_threadpool(dump_output, context, job, files_base_of(context, request))
    return {"images": output["images"]}


def _is_bearer(request: Request) -> bool:
    return request.headers.get("authorization", "").strip().lower().startswith("bearer ")


def _respond(request: Request, answer: Answer) -> Response:
    """fal's body with an `error` beside it: a sentence for a failed edit, else an object as gateways send it."""
    if not _is_bearer(request) and "authorization" in request.headers:
        return error_response(answer)
    error: object = answer.text
    if isinstance(answer.body["detail"], str):
        message = f"{answer.text} (request id: {request.state.request_id})"
        error = {"message": message, "type": "new_api_error", "code": answer.kind}
    return json_response({**answer.body, "error": error}, answer.status, answer.headers)


async def _usage(context: AppDependencies, request: Request) -> Response:
    """`GET /token/`: this server sets no limit, so the quota is unlimited and what counts is what was used."""
    if request.path_params["path"].strip("/") != "token":
        raise UnknownUrl(f"Path {request.url.path[:200]} not found")
    allow(request, "GET")
    account = await account_of(context, request)
    reports = await run_in_threadpool(context.service.usage, account)
    used = sum(report.usage.price_microusd for report in reports) * QUOTA_PER_DOLLAR // 1_000_000
    data = {
        "object": "token_usage",
        "name": account.name,
        "total_granted": used,
        "total_used": used,
        "total_available": 0,
        "unlimited_quota": True,
        "model_limits": {},
        "model_limits_enabled": False,
        "expires_at": 0,
    }
    return json_response({"code": True, "message": "ok", "data": data})
