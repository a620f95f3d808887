"""One call of this face as a queued job; the same for queue, run, streams and sockets."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection, Request

from retouch.accounts.keys import Account
from retouch.edit import Delivery
from retouch.errors import PermissionDenied
from retouch.jobs.job import Idempotency
from retouch.protocols import submit as shared
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.fal.dump import FIELDS_OPTION, FILES_ORIGIN_OPTION, NOTICES_OPTION, notices_header
from retouch.protocols.fal.parse import endpoint_named, parse_edit, parse_json, parse_query, parse_submit_options
from retouch.protocols.fal.schemas import Endpoint
from retouch.protocols.fal.storage import REALTIME, key_of_upload
from retouch.protocols.fal.vendor_hosts import files_origin_of
from retouch.protocols.http import account_of, read_body, set_request_id
from retouch.protocols.outcome import MethodNotAllowed
from retouch.service import Submitted

PROTOCOL = "fal"

SUBMITTING = ("POST", "PUT", "PATCH")
"""Methods whose body may be an input; the vendor's client lets its user choose. GET has it in the query."""


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
    kept = {FIELDS_OPTION: " ".join(name for name, value in body.items() if value is not None)}
    if options.notices:
        kept[NOTICES_OPTION] = notices_header(options.notices)
    if options.webhook_url is not None:
        kept[FILES_ORIGIN_OPTION] = files_origin
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
        return key_of_upload(dependencies, link) or dependencies.blobs.key_of_link(link, base_url=files_origin)

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
