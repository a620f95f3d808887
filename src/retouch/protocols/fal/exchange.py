"""One HTTP exchange of this face: the caller's key, the body, addresses to hand out, JSON answers.

Holds what every route module here needs and nothing that knows a job or an edit.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import orjson
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retouch.accounts.keys import Account
from retouch.errors import BodyTooLarge
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.fal.errors import Answer, MethodNotAllowed

REQUEST_ID_HEADER = "x-fal-request-id"
NOTICES_HEADER = "x-retouch-notices"

QUEUE_BASE = "fal.queue_base"
FILES_BASE = "fal.files_base"
CDN_BASE = "fal.cdn_base"
"""Keys of the ASGI scope that a dispatcher by host name sets: the addresses the caller knows us by."""

_PRINTABLE_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def credential_of(request: HTTPConnection) -> str | None:
    """The bare key of `Key …` or `Bearer …`; anything else is taken whole, and will not be a key of ours."""
    header = request.headers.get("authorization")
    if header is None:
        return None
    scheme, _, secret = header.strip().partition(" ")
    if scheme.lower() not in ("key", "bearer") or not secret:
        return header.strip()
    return secret.strip().removeprefix("sk-")  # as resellers' customers paste it


async def account_of(context: AppDependencies, request: HTTPConnection) -> Account:
    """Raises InvalidKey."""
    return await context.authenticator.authenticate(credential_of(request))


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body; raises BodyTooLarge as soon as it is longer than `limit` bytes."""
    body = bytearray()
    async for chunk in body_up_to(request, limit):
        body += chunk
    return bytes(body)


async def body_up_to(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The body as it comes; raises BodyTooLarge at once when a longer one is announced, else when it is longer."""
    too_large = BodyTooLarge(
        f"The request body is larger than {limit} bytes, which is all that is read here.", max_bytes=limit
    )
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise too_large
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise too_large
        yield chunk


def allow(request: Request, *methods: str) -> None:
    """Raise MethodNotAllowed unless the request has one of `methods`; HEAD goes with GET."""
    method = "GET" if request.method == "HEAD" else request.method
    if method not in methods:
        raise MethodNotAllowed(request.method, request.url.path, ", ".join(methods))


def wants_logs(request: Request) -> bool:
    """One client says true, the other 1."""
    return request.query_params.get("logs", "").lower() in ("1", "true")


def origin_of(context: AppDependencies, request: HTTPConnection) -> str:
    """This server as the caller sees it, without a trailing slash and without any mount path."""
    scheme = {"ws": "http", "wss": "https"}.get(request.url.scheme, request.url.scheme)
    return context.public_url or f"{scheme}://{request.url.netloc}"


def files_base_of(context: AppDependencies, request: HTTPConnection) -> str:
    """What links to files begin with."""
    return context.public_url or request.scope.get(FILES_BASE) or origin_of(context, request)


def queue_base_of(context: AppDependencies, request: HTTPConnection) -> str:
    """What the URLs of a request begin with: the queue by the name the caller used."""
    by_host: str | None = request.scope.get(QUEUE_BASE)
    return by_host or f"{origin_of(context, request)}{request.scope.get('root_path', '')}/queue"


def cdn_base_of(context: AppDependencies, request: HTTPConnection) -> str:
    """What the addresses of uploads begin with."""
    by_host: str | None = request.scope.get(CDN_BASE)
    return by_host or f"{origin_of(context, request)}{request.scope.get('root_path', '')}/cdn"


def name_request(request: Request, request_id: str) -> None:
    """Make `request_id` the one every answer to this exchange carries in its header."""
    if _PRINTABLE_ID.fullmatch(request_id):
        request.state.request_id = request_id


def json_response(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, headers, media_type="application/json")


def error_response(answer: Answer) -> Response:
    return json_response(answer.body, answer.status, answer.headers)


class RequestIds:
    """Puts a request id on every answer: the job's where a route named one, else a new one.

    headers: the names it is sent under.
    """

    def __init__(self, app: ASGIApp, headers: Sequence[str] = (REQUEST_ID_HEADER,)) -> None:
        self._app = app
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state: dict[str, Any] = scope.setdefault("state", {})
        state.setdefault("request_id", str(uuid.uuid4()))

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name in self._headers:
                    headers.setdefault(name, state["request_id"])
            await send(message)

        await self._app(scope, receive, send_with_id)
