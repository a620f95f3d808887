"""The fal protocol over HTTP: an edit in the queue, or with its caller waiting; its status, its result, its cancel.

One handler takes every path of the queue, and one every path under `run`, because an endpoint id has a varying number
of segments; `face.py` leads the paths here.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from retouch.accounts.keys import Account
from retouch.edit import Delivery
from retouch.errors import EditCancelled, InvalidKey, JobNotFinished, PermissionDenied, UnknownJob, UnknownUrl
from retouch.jobs.job import Idempotency, Job
from retouch.protocols import submit as shared
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.fal import dump, streaming
from retouch.protocols.fal.dump import endpoint_of
from retouch.protocols.fal.errors import Answer, answer_to, answer_to_failure, check_method
from retouch.protocols.fal.parse import (
    RequestPath,
    endpoint_named,
    parse_edit,
    parse_json,
    parse_query,
    parse_request_path,
    parse_submit_options,
)
from retouch.protocols.fal.schemas import Endpoint
from retouch.protocols.fal.vendor_hosts import FILES_ORIGIN, QUEUE_URL
from retouch.protocols.http import (
    DeliveredOnce,
    account_of,
    ended_or_disconnected,
    json_response,
    origin_of,
    read_body,
    set_request_id,
)
from retouch.protocols.outcome import MethodNotAllowed, failure_of, forgotten_on_delivery, output_urls
from retouch.service import Submitted

PROTOCOL = "fal"

SUBMITTING = ("POST", "PUT", "PATCH")
"""Methods whose body may be an input; the vendor's client lets its user choose. GET has it in the query."""

ANY_APP = "fal-ai/auto"
"""An app name that means: find the request by its id alone."""

REALTIME, READ = "realtime", "file"
"""Purposes of tokens: to open a stream or socket; to read an upload in parts, whose address holds the token."""

_UPLOAD_ADDRESS = re.compile(r"/files/m/([A-Za-z0-9_.-]{1,4096})$")


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
        return streaming.status_stream(dependencies, job, urls_of(dependencies, request, job), logs=wants_logs(request))
    return await result_response(dependencies, request, job)


async def submit(dependencies: AppDependencies, request: Request, path: str) -> Response:
    """Write the job and answer before anything is fetched."""
    account, submitted = await submit_request(dependencies, request, path)
    job = submitted.job
    if await request.is_disconnected():
        # No caller will ever know this id, and the client is about to send the same edit again.
        await shared.cancel_abandoned(dependencies, account, submitted)
    position = await run_in_threadpool(dependencies.service.position, job)
    return json_response(dump.dump_submitted(job, urls_of(dependencies, request, job), position))


async def run(dependencies: AppDependencies, request: Request) -> Response:
    """The synchronous call: a job like any other, with its caller waiting. A caller who hangs up cancels it.

    A path that ends in `/stream` answers with events.
    """
    path = request.path_params["path"].rstrip("/")
    account, submitted = await submit_request(dependencies, request, path.removesuffix(streaming.SUFFIX))
    if path.endswith(streaming.SUFFIX):
        origin = files_origin_of(dependencies, request)
        frames = await streaming.stream(dependencies, account, submitted, origin)
        if frames is not None:
            return frames
    ended = await ended_or_disconnected(dependencies.watch, request, submitted.job.id)
    if ended is None:
        await shared.cancel_abandoned(dependencies, account, submitted)
        return error_response(answer_to(EditCancelled("The caller hung up.")))
    return await result_response(dependencies, request, ended)


# --- from a call to its job; the same for queue, run, streams and sockets


async def submit_request(dependencies: AppDependencies, request: Request, path: str) -> tuple[Account, Submitted]:
    """From an HTTP request for an endpoint to its job. Nothing here keeps the body once it has returned."""
    endpoint = endpoint_named(path.strip("/"))
    request.state.endpoint = endpoint
    account = await caller_of(dependencies, request, endpoint)
    in_query = request.method == "GET" and bool(request.query_params)
    if not in_query and request.method not in SUBMITTING:
        raise MethodNotAllowed(request.method, request.url.path, ", ".join(SUBMITTING))
    data = None if in_query else await read_body(request, dependencies.max_body_bytes)
    submitted = await run_in_threadpool(_submit_body, dependencies, account, endpoint, request, data)
    set_request_id(request, submitted.job.id)
    return account, submitted


async def caller_of(dependencies: AppDependencies, connection: HTTPConnection, endpoint: Endpoint) -> Account:
    """The account of the key, or of a token in the query, which is good for the apps it names.

    Raises InvalidKey and PermissionDenied.
    """
    text = connection.query_params.get("fal_jwt_token")
    if text is None or "authorization" in connection.headers:
        return await account_of(dependencies.authenticator, connection)
    token = dependencies.tokens.read(text, REALTIME)
    names = {endpoint.id, endpoint.app, endpoint.app.partition("/")[2]}
    if names.isdisjoint(token.claims["apps"]):
        raise PermissionDenied(f"This token is not for {endpoint.id}.")
    return token.account


def _submit_body(
    dependencies: AppDependencies, account: Account, endpoint: Endpoint, request: Request, data: bytes | None
) -> Submitted:
    """data: the body, or None when the input is in the query."""
    query = request.query_params.multi_items()
    body = parse_query(endpoint, query) if data is None else parse_json(data)
    digest = hashlib.sha256(endpoint.id.encode())
    digest.update(repr(sorted(query)).encode() if data is None else data)
    return submit_input(dependencies, account, endpoint, request, body, fingerprint=digest.hexdigest())


def submit_input(
    dependencies: AppDependencies,
    account: Account,
    endpoint: Endpoint,
    connection: HTTPConnection,
    body: Mapping[str, Any],
    *,
    fingerprint: str | None = None,
) -> Submitted:
    """Check everything, store inline images, write the job. Blocking.

    fingerprint: of what an Idempotency-Key stands for; None where each call is a new edit. Raises InvalidRequest and
    its kinds, QueueFull, IdempotencyKeyReused, Unavailable.
    """
    options = parse_submit_options(connection.headers, connection.query_params)
    edit = parse_edit(endpoint, body)
    files_origin = files_origin_of(dependencies, connection)
    kept = {dump.FIELDS_OPTION: " ".join(name for name, value in body.items() if value is not None)}
    if options.notices:
        kept[dump.NOTICES_OPTION] = dump.notices_header(options.notices)
    if options.webhook_url is not None:
        kept[dump.FILES_ORIGIN_OPTION] = files_origin
    delivery = Delivery(
        protocol=PROTOCOL,
        endpoint=endpoint.id,
        webhook_url=options.webhook_url,
        retention_s=options.retention_s,
        inline=edit.inline,
        keep_payload=options.keep_payload,
        options=kept,
    )
    idempotency = None
    if fingerprint is not None and options.idempotency_key is not None:
        idempotency = Idempotency(options.idempotency_key, fingerprint)

    def key_of_link(link: str) -> str | None:
        upload = _UPLOAD_ADDRESS.search(link.partition("?")[0])
        if upload is not None:
            with contextlib.suppress(InvalidKey):
                return str(dependencies.tokens.read(upload[1], READ).claims["key"])
        return dependencies.blobs.key_of_link(link, base_url=files_origin)

    submission = shared.Submission(
        edit.request,
        edit.images,
        delivery,
        key_of_link,
        priority=options.priority,
        start_timeout_s=options.start_timeout_s,
        max_queue_length=options.max_queue_length,
        idempotency=idempotency,
    )
    return shared.submit(dependencies, account, submission)


# --- what became of it


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
    urls = urls_of(dependencies, request, job)
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
        headers = {dump.BILLABLE_UNITS_HEADER: dump.billable_units(job)}
        if notices := dump.notices_of(job):
            headers[dump.NOTICES_HEADER] = dump.notices_header(notices)
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


def wants_logs(request: Request) -> bool:
    """One client says true, the other 1."""
    return request.query_params.get("logs", "").lower() in ("1", "true")


def error_response(answer: Answer) -> Response:
    return json_response(answer.body, answer.status, answer.headers)


# --- this server as its caller knows it: by the vendor's host names, where the call came by one of them


def files_origin_of(dependencies: AppDependencies, connection: HTTPConnection) -> str:
    """What links to files begin with, without a trailing slash; raises InvalidRequest."""
    by_host = None if dependencies.public_url is not None else connection.scope.get(FILES_ORIGIN)
    return by_host or origin_of(dependencies.public_url, connection)


def face_url_of(dependencies: AppDependencies, connection: HTTPConnection) -> str:
    """Where this face is mounted; raises InvalidRequest."""
    return f"{origin_of(dependencies.public_url, connection)}{connection.scope.get('root_path', '')}"


def urls_of(dependencies: AppDependencies, connection: HTTPConnection, job: Job) -> dump.RequestUrls:
    """The three addresses of a request; raises InvalidRequest."""
    queue_url = connection.scope.get(QUEUE_URL) or f"{face_url_of(dependencies, connection)}/queue"
    return dump.RequestUrls.under(queue_url, endpoint_of(job).app, job.id)
