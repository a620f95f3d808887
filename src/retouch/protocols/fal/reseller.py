"""The shape in which resellers pass fal's queue on: paths without a service, `Bearer` keys, patient results.

With `Authorization: Key` the same paths answer by fal's own rules. Callers who poll a reseller's result in a
loop take any `status` for "not yet", so a result that is not there is a 200 with one, held for a moment,
and a failure never is. What a key has used is told in their unit. It adds no way to submit or to pay.
"""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from retouch.errors import UnknownUrl
from retouch.jobs.job import JobState
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.fal import dump, routes
from retouch.protocols.fal.dump import REQUEST_ID_HEADER
from retouch.protocols.fal.errors import Answer, answer_to_failure, check_method
from retouch.protocols.fal.parse import parse_request_path
from retouch.protocols.fal.vendor_hosts import QUEUE_URL
from retouch.protocols.http import account_of, json_response, origin_of, set_request_id
from retouch.protocols.outcome import failure_of, output_urls

HOLD_S = 2.0
"""How long a result that is not there yet is waited for: some callers poll without a pause."""

OWNER = "fal-ai"
"""What this face is mounted at, and what its paths therefore leave out of an endpoint's id."""

QUOTA_PER_DOLLAR = 500_000
"""The unit in which such gateways count money."""

ID_HEADERS = (REQUEST_ID_HEADER, "x-oneapi-request-id")


async def queue(dependencies: AppDependencies, request: Request) -> Response:
    """fal's own queue, but for a reseller's status and result: the output, an error, or after a moment "not yet"."""
    # What follows, fal's own handlers too, takes a reseller's path for one of the queue: it begins at the host.
    request.scope[QUEUE_URL] = origin_of(dependencies.public_url, request)
    request.path_params["path"] = path = f"{OWNER}/{request.path_params['path']}"
    named = parse_request_path(path)
    if named is None or not _is_bearer(request) or named.action not in ("result", "status"):
        return await routes.queue(dependencies, request)
    set_request_id(request, named.request_id)
    check_method(request.method, path, "GET")
    if named.action == "status":
        job, status, body = await routes.status_now(dependencies, request, named)
        if job.state is JobState.SUCCEEDED and not job.payload_deleted:
            # fal's status, and the images beside it once they are there: some callers look no further.
            origin = routes.files_origin_of(dependencies, request)
            result = dump.dump_result(job, await run_in_threadpool(output_urls, dependencies, job, origin))
            body |= {name: result[name] for name in ("images", "notices") if name in result}
        return json_response(body, status)
    job = await routes.own_job(dependencies, await account_of(dependencies.authenticator, request), named)
    if not job.state.final:
        try:
            job = await dependencies.watch.wait(job.id, timeout_s=HOLD_S)
        except TimeoutError:
            urls = routes.urls_of(dependencies, request, job)
            return json_response({**dump.dump_status(job, urls, 0, None)[1], "status": "IN_QUEUE"})
    failure = failure_of(job)
    if failure is not None:
        return error_response(request, answer_to_failure(failure, dump.endpoint_of(job)))
    return await routes.result_response(dependencies, request, job)


def _is_bearer(request: Request) -> bool:
    return request.headers.get("authorization", "").strip().lower().startswith("bearer ")


def error_response(request: Request, answer: Answer) -> Response:
    """fal's body with an `error` beside it: a sentence for a failed edit, else an object as gateways send it."""
    if not _is_bearer(request) and "authorization" in request.headers:
        return routes.error_response(answer)
    error: object = answer.text
    if isinstance(answer.body["detail"], str):
        message = f"{answer.text} (request id: {request.state.request_id})"
        error = {"message": message, "type": "new_api_error", "code": answer.kind}
    return json_response({**answer.body, "error": error}, answer.status, answer.headers)


async def usage(dependencies: AppDependencies, request: Request) -> Response:
    """`GET /token/`: this server sets no limit, so the quota is unlimited and what counts is what was used."""
    if request.path_params["path"].strip("/") != "token":
        raise UnknownUrl(f"Path {request.url.path[:200]} not found")
    check_method(request.method, request.url.path, "GET")
    account = await account_of(dependencies.authenticator, request)
    reports = await run_in_threadpool(dependencies.service.usage, account)
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
