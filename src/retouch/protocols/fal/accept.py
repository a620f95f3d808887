"""Turns one submitted HTTP body into a queued job; the same for queue, run and stream.

The checking and writing is synchronous and runs on a thread, because it may decode megabytes of base64 and
writes to storage and database. It fetches no link and waits for no edit.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection, Request

from retouch.accounts.keys import Account
from retouch.edit import ImageInput
from retouch.errors import JobFinished, PermissionDenied
from retouch.jobs.job import Idempotency, Job
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.fal import uploads, wire
from retouch.protocols.fal.errors import BadCall, MethodNotAllowed
from retouch.protocols.fal.exchange import account_of, files_base_of, name_request, read_body
from retouch.protocols.fal.schemas import Endpoint, endpoint_named
from retouch.protocols.fal.terms import parse_terms
from retouch.protocols.fal.values import check_body, from_query
from retouch.protocols.ingest import image_from_text


@dataclass(frozen=True, slots=True)
class Call:
    """What the request said. headers: names in lower case. body None: the input is the query, or `given`."""

    account: Account
    endpoint: Endpoint
    headers: Mapping[str, str]
    query: Sequence[tuple[str, str]]
    body: bytes | None
    files_base: str
    given: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """position: jobs ahead in the queue. replayed: an idempotency key joined a job that was there before."""

    account: Account
    job: Job
    position: int
    replayed: bool


SUBMITTING = ("POST", "PUT", "PATCH")
"""Methods whose body may be an input; the vendor's client lets its user choose. GET has it in the query."""

_QUEUE_WORDS = frozenset({"fal_webhook", "fal_max_queue_length", "fal_jwt_token", "max_buffering"})
_MAX_IDEMPOTENCY_KEY = 255

REALTIME = "realtime"
"""Purpose of the tokens that go into URLs of streams and sockets."""


async def accept_request(context: AppDependencies, request: Request, path: str) -> Accepted:
    """From an HTTP request for an endpoint to its job; the same for queue, run and stream."""
    endpoint = endpoint_named(path.strip("/"))
    account = await caller_of(context, request, endpoint)
    request.state.endpoint = endpoint
    in_query = request.method == "GET" and bool(request.query_params)
    if not in_query and request.method not in SUBMITTING:
        raise MethodNotAllowed(request.method, request.url.path, ", ".join(SUBMITTING))
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


async def caller_of(context: AppDependencies, request: HTTPConnection, endpoint: Endpoint) -> Account:
    """The account of the key, or of a token in the query, which is good for the apps it names.

    Raises InvalidKey and PermissionDenied.
    """
    text = request.query_params.get("fal_jwt_token")
    if text is None or "authorization" in request.headers:
        return await account_of(context, request)
    token = context.tokens.read(text, REALTIME)
    names = {endpoint.id, endpoint.app, endpoint.app.partition("/")[2]}
    if names.isdisjoint(token.claims["apps"]):
        raise PermissionDenied(f"This token is not for {endpoint.id}.")
    return token.account


def accept(context: AppDependencies, call: Call) -> Accepted:
    """Check everything, store inline pictures, write the job. Raises InvalidRequest, QueueFull, Unavailable."""
    endpoint = call.endpoint
    terms = parse_terms(call.headers, dict(call.query))
    if call.given is not None:
        body = dict(call.given)
    elif call.body is None:
        body = from_query(endpoint, [(name, value) for name, value in call.query if name not in _QUEUE_WORDS])
    else:
        body = dict(wire.parse_json(call.body))
    asked = wire.request_of(endpoint, check_body(endpoint, body))
    idempotency = _idempotency(call)

    # Checked once with stand-ins for the pictures, so that a refused edit leaves no upload behind.
    stand_ins = tuple(ImageInput(url="https:", field=f"images[{i}]") for i in range(len(asked.image_texts)))
    context.catalog.route(endpoint.id).complete(replace(asked.request, images=stand_ins))

    images = tuple(
        _image(context, text, f"images[{index}]", call.files_base) for index, text in enumerate(asked.image_texts)
    )
    submitted = context.service.submit(
        call.account,
        replace(asked.request, images=images),
        wire.delivery_of(endpoint, asked, terms, call.files_base),
        priority=terms.priority,
        start_timeout_s=terms.start_timeout_s,
        max_queue_length=terms.max_queue_length,
        idempotency=idempotency,
    )
    return Accepted(call.account, submitted.job, context.service.position(submitted.job), submitted.replayed)


def _image(context: AppDependencies, text: str, field: str, files_base: str) -> ImageInput:
    key = uploads.own_key(context, text) if text.startswith("http") else None
    if key is not None:
        return ImageInput(blob=key, field=field)
    return image_from_text(context.blobs, text, field=field, base_url=files_base)


def _idempotency(call: Call) -> Idempotency | None:
    key = call.headers.get("idempotency-key")
    if not key or call.given is not None:
        return None
    if len(key) > _MAX_IDEMPOTENCY_KEY:
        raise BadCall(f"Idempotency-Key has {len(key)} characters; at most {_MAX_IDEMPOTENCY_KEY} are allowed.")
    digest = hashlib.sha256(call.endpoint.id.encode())
    digest.update(repr(sorted(call.query)).encode() if call.body is None else call.body)
    return Idempotency(key, digest.hexdigest())


async def cancel_quietly(context: AppDependencies, accepted: Accepted) -> None:
    """Cancel a job whose caller is gone; one that has ended, or that others wait for too, is left as it is."""
    if accepted.replayed:
        return
    with contextlib.suppress(JobFinished):
        await run_in_threadpool(context.service.cancel, accepted.account, accepted.job.id)
