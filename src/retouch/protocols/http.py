"""One HTTP exchange, the same for every face: its id and log line, who calls, its body, refused uploads, its answer.

The log has method, path, status and time. Never a query (links carry signatures), a header, a key, a token, a prompt
or bytes. It knows no job but as something that ends, and no parameter of an edit; it holds no secrets and issues no
keys.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

import orjson
import structlog
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retouch.accounts.keys import ANONYMOUS, Account, Keys
from retouch.errors import BodyTooLarge, InvalidKey, InvalidRequest, InvalidSetting
from retouch.jobs.job import Job
from retouch.watch import Watch

logger = structlog.get_logger(__name__)


# --- its id and its line in the log

ID_HEADER = "x-request-id"
QUIET_PATHS = re.compile(r"/(health|ready|metrics)")
"""Asked by machines every few seconds; logged at debug level unless refused, as are the faces' own quiet paths."""

_TOKEN = re.compile(r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_.-]+")
"""A token in a path: the address of an upload that is under way."""

_HARMLESS_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestLog:
    """ASGI: the outermost layer of the server; an id, a line in the log, and an answer whatever breaks.

    quiet_paths: further paths that are logged at debug level.
    """

    def __init__(self, app: ASGIApp, quiet_paths: Sequence[re.Pattern[str]] = ()) -> None:
        self._app = app
        self._quiet_paths = (QUIET_PATHS, *quiet_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        given = Headers(scope=scope).get(ID_HEADER, "")
        request_id = given if _HARMLESS_ID.fullmatch(given) else uuid.uuid4().hex
        state = scope.setdefault("state", {})
        # `set_request_id` may put a better id there, such as a job's; `FaceMount` adds the header names of its face.
        state["request_id"] = request_id
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.setdefault(ID_HEADER, request_id)
                for name in state.get(FaceMount.HEADERS, ()):
                    headers.setdefault(name, state["request_id"])
            await send(message)

        path = _TOKEN.sub("[token]", scope["path"])
        path = path if path.isprintable() else ascii(path)  # it must not end a line or steer a terminal
        with structlog.contextvars.bound_contextvars(request=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except Exception:
                logger.exception("a request failed by a bug", method=scope["method"], path=path)
                if not status:
                    message = "Something went wrong inside the server; it has been logged."
                    answer = json_response({"error": {"code": "internal_error", "message": message}}, 500)
                    await answer(scope, receive, send_with_id)
            finally:
                quiet = status < 400 and any(pattern.fullmatch(path) for pattern in self._quiet_paths)
                log = logger.debug if quiet else logger.info
                elapsed_ms = round((time.perf_counter() - began) * 1000, 1)
                log("request", method=scope["method"], path=path, status=status, elapsed_ms=elapsed_ms)


class FaceMount:
    """ASGI: wraps a face's application, so that its answers carry the request id under the names of its protocol."""

    HEADERS = "request_id_headers"

    def __init__(self, app: ASGIApp, request_id_headers: Sequence[str]) -> None:
        self._app = app
        self._request_id_headers = request_id_headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})[self.HEADERS] = self._request_id_headers
        await self._app(scope, receive, send)


def set_request_id(request: HTTPConnection, request_id: str) -> None:
    """Make `request_id`, where it fits a header, the one that the answer carries."""
    if _HARMLESS_ID.fullmatch(request_id):
        request.state.request_id = request_id


# --- who calls, and by which name

KEYS_CHECK_S = 1.0
"""How long the answer to "is there any key?" is believed."""

_HOST = re.compile(r"[A-Za-z0-9.\-_]+(:\d{1,5})?|\[[0-9a-fA-F:.]+\](:\d{1,5})?")


def credential_of(connection: HTTPConnection) -> str | None:
    """The bare key of the `Authorization` header: after `Key` or `Bearer`, or alone; None without the header.

    A key pasted with the `sk-` that resellers put before theirs is read without it.
    """
    header = connection.headers.get("authorization", "").strip()
    scheme, _, secret = header.partition(" ")
    if scheme.lower() not in ("key", "bearer"):
        secret = header
    return secret.strip().removeprefix("sk-") or None


class Authenticator:
    """Turns credentials into accounts, by one of three rules.

    no_auth: every caller is accepted; a good key still names its account. loopback: every caller is accepted while
    no key exists. Else a good key is needed.
    """

    def __init__(self, keys: Keys, *, loopback: bool, no_auth: bool) -> None:
        self._keys = keys
        self._loopback = loopback
        self._no_auth = no_auth
        self._keyless = False
        self._checked_at = -1e9

    def refuse_unauthenticated(self, host: str) -> None:
        """Raise InvalidSetting when the server would listen on `host` without any key by accident."""
        if not self._loopback and self.needs_key() and not self._keys.any_exist():
            raise InvalidSetting(
                f"Others can reach {host} and there is no key yet. Make one with 'retouch keys create NAME', "
                "or pass --no-auth to accept every caller."
            )

    def needs_key(self) -> bool:
        """Whether a caller has to show a key now."""
        return not self._no_auth and not (self._loopback and not self._keys.any_exist())

    async def unauthenticated(self) -> bool:
        """Whether every caller is accepted only because no key exists; raises DatabaseUnavailable."""
        if self._no_auth or not self._loopback:
            return False
        return self._keyless if self._checked_lately() else await run_in_threadpool(self._no_key_exists)

    async def authenticate(self, secret: str | None) -> Account:
        """The account of a credential; raises InvalidKey, and DatabaseUnavailable."""
        if self._keyless and self._checked_lately():
            return ANONYMOUS
        # A thread costs more than everything else that a polled status does.
        if secret and (known := self._keys.remembered(secret)) is not None:
            return known
        return await run_in_threadpool(self._account, secret)

    async def may_operate(self, secret: str | None) -> bool:
        """Whether a caller may read what every key has used: with an operator's key, or while there is no key at all.

        Raises DatabaseUnavailable.
        """
        if await self.unauthenticated():
            return True
        try:
            return secret is not None and (await self.authenticate(secret)).operator
        except InvalidKey:
            return False

    def _account(self, secret: str | None) -> Account:
        if self._no_key_exists():
            return ANONYMOUS
        if secret:
            try:
                return self._keys.verify(secret)
            except InvalidKey:
                if not self._no_auth:
                    raise
        if self._no_auth:
            return ANONYMOUS
        raise InvalidKey("This server needs an API key; none was given.")

    def _no_key_exists(self) -> bool:
        """Whether no key exists and this is no risk; asked again after `KEYS_CHECK_S` while it is so."""
        if not (self._loopback or self._no_auth):
            return False
        if not self._checked_lately():
            self._keyless = not self._keys.any_exist()
            self._checked_at = time.monotonic()
        return self._keyless

    def _checked_lately(self) -> bool:
        return time.monotonic() - self._checked_at < KEYS_CHECK_S


async def account_of(authenticator: Authenticator, connection: HTTPConnection) -> Account:
    """The account that calls; raises InvalidKey, and DatabaseUnavailable."""
    return await authenticator.authenticate(credential_of(connection))


def origin_of(public_url: str | None, connection: HTTPConnection) -> str:
    """This server as the caller sees it, without a trailing slash and any path: the operator's name, or the request's.

    What a proxy says about the caller's address is in the ASGI scope already, where the operator trusts that proxy
    (`server/forwarded.py`); no header but Host is read here. Raises InvalidRequest when Host names no host.
    """
    if public_url is not None:
        return public_url
    host = connection.headers.get("host", "")
    if not _HOST.fullmatch(host):
        raise InvalidRequest("The Host header does not name a host.")
    scheme = {"ws": "http", "wss": "https"}.get(connection.scope["scheme"], connection.scope["scheme"])
    return f"{scheme}://{host}"


# --- its body


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


# --- a refused upload

DRAIN_S = 10.0
"""How long the rest of a refused upload is read, in seconds; then the connection closes on it."""


class DrainRefusedUploads:
    """ASGI: holds back an answer of 400 or more until the body has been read, for `DRAIN_S` at most.

    A server that answers early and closes leaves JavaScript's `fetch` with a broken pipe in place of the status, and a
    client with a retry sends everything again. Nothing of what is read is kept, and no body that is wanted is touched.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body_pending = scope["method"] not in ("GET", "HEAD", "OPTIONS")
        body_begun = False

        async def counting_receive() -> Message:
            nonlocal body_pending, body_begun
            message = await receive()
            body_begun = True
            body_pending = message["type"] == "http.request" and message.get("more_body", False)
            return message

        async def draining_send(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                # A client that waits for "100 Continue" sends nothing before it is asked, and need not be.
                asks_first = not body_begun and Headers(scope=scope).get("expect", "").lower() == "100-continue"
                try:
                    async with asyncio.timeout(DRAIN_S):
                        while body_pending and not asks_first:
                            await counting_receive()
                except TimeoutError:
                    pass
            await send(message)

        await self._app(scope, counting_receive, draining_send)


# --- its answer

CLIENT_DISCONNECTED = 499
"""nginx's status for an answer that has no reader; it reaches the log only."""


def json_response(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, headers, media_type="application/json")


async def client_disconnected(request: Request) -> None:
    """Return when the caller has hung up; for a request whose body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def ended_or_disconnected(
    watch: Watch, request: Request, job_id: str, *, timeout_s: float | None = None
) -> Job | None:
    """The job when it has ended, or None as soon as the caller has hung up. The body must have been read.

    Raises TimeoutError after `timeout_s`, in seconds.
    """
    ended = asyncio.ensure_future(watch.wait(job_id, timeout_s=timeout_s))
    gone = asyncio.ensure_future(client_disconnected(request))
    try:
        await asyncio.wait((ended, gone), return_when=asyncio.FIRST_COMPLETED)
        return ended.result() if ended.done() else None
    finally:
        ended.cancel()
        gone.cancel()


class TrackedResponse(Response):
    """Sends an answer and then calls `sent`, with whether it left whole to a caller who is still there."""

    def __init__(self, response: Response, sent: Callable[[bool], Awaitable[None]]) -> None:
        super().__init__(response.body, response.status_code, dict(response.headers))
        self._sent = sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        delivered = False
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": self.body, "more_body": True})
            # Returns when the bytes before it are on their way; only then is it known whether anyone reads them.
            await send({"type": "http.response.body", "body": b"", "more_body": True})
            gone = await Request(scope, receive).is_disconnected()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            delivered = not gone
        finally:
            await self._sent(delivered)


class DeliveredOnce(TrackedResponse):
    """Sends an answer and, once it is delivered, calls `forget` on a thread.

    A caller who went away before the last byte may ask again.
    """

    def __init__(self, response: Response, forget: Callable[[], None]) -> None:
        async def sent(delivered: bool) -> None:
            if delivered:
                await run_in_threadpool(forget)

        super().__init__(response, sent)
