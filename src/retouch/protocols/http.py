"""What every face does with one HTTP exchange: the caller, its address of this server, its body, plain answers.

Knows no job but as something that ends, and no parameter of an edit.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping

import orjson
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from retouch.accounts.keys import Account
from retouch.errors import BodyTooLarge, InvalidRequest
from retouch.jobs.job import Job
from retouch.protocols.authentication import credential_of
from retouch.protocols.dependencies import AppDependencies

CLIENT_DISCONNECTED = 499
"""nginx's status for an answer that has no reader; it reaches the log only."""

_HOST = re.compile(r"[A-Za-z0-9.\-_]+(:\d{1,5})?|\[[0-9a-fA-F:.]+\](:\d{1,5})?")
_PRINTABLE_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


async def account_of(dependencies: AppDependencies, connection: HTTPConnection) -> Account:
    """The account that calls; raises InvalidKey."""
    return await dependencies.authenticator.authenticate(credential_of(connection))


def origin_of(dependencies: AppDependencies, connection: HTTPConnection) -> str:
    """This server as the caller sees it, without a trailing slash and any path: the operator's name, or the request's.

    What a proxy says about the caller's address is in the ASGI scope already, where the operator trusts that proxy
    (`server/forwarded.py`); no header but Host is read here. Raises InvalidRequest when Host names no host.
    """
    if dependencies.public_url is not None:
        return dependencies.public_url
    host = connection.headers.get("host", "")
    if not _HOST.fullmatch(host):
        raise InvalidRequest("The Host header does not name a host.")
    scheme = {"ws": "http", "wss": "https"}.get(connection.scope["scheme"], connection.scope["scheme"])
    return f"{scheme}://{host}"


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body; raises BodyTooLarge as soon as it is longer than `max_bytes`."""
    body = bytearray()
    async for chunk in body_chunks(request, max_bytes):
        body += chunk
    return bytes(body)


async def body_chunks(request: Request, max_bytes: int, *, glance_bytes: int = 0) -> AsyncIterator[bytes]:
    """The body as it comes; raises BodyTooLarge at once when a longer one is announced, else when it is longer.

    glance_bytes: so much of a body that is announced as too long still comes, for a reader who may find a better
    reason to refuse it than its size.
    """
    announced = request.headers.get("content-length", "")
    announced_too_large = announced.isdecimal() and int(announced) > max_bytes
    left = min(glance_bytes, max_bytes) if announced_too_large else max_bytes
    if glance_bytes or not announced_too_large:
        async for chunk in request.stream():
            left -= len(chunk)
            if left < 0:
                break
            yield chunk
    if announced_too_large or left < 0:
        raise BodyTooLarge(
            f"The request body is larger than {max_bytes} bytes, which is all that is read here.", max_bytes=max_bytes
        )


def json_response(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, headers, media_type="application/json")


def set_request_id(request: HTTPConnection, request_id: str) -> None:
    """Make `request_id`, where it fits a header, the one that the answer carries (`server/request_log.py`)."""
    if _PRINTABLE_ID.fullmatch(request_id):
        request.state.request_id = request_id


async def client_disconnected(request: Request) -> None:
    """Return when the caller has hung up; for a request whose body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def ended_or_disconnected(
    dependencies: AppDependencies, request: Request, job_id: str, *, timeout_s: float | None = None
) -> Job | None:
    """The job when it has ended, or None as soon as the caller has hung up. The body must have been read.

    Raises TimeoutError after `timeout_s`, in seconds.
    """
    ended = asyncio.ensure_future(dependencies.watch.wait(job_id, timeout_s=timeout_s))
    gone = asyncio.ensure_future(client_disconnected(request))
    try:
        await asyncio.wait((ended, gone), return_when=asyncio.FIRST_COMPLETED)
        return ended.result() if ended.done() else None
    finally:
        ended.cancel()
        gone.cancel()
