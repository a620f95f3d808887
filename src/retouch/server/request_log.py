"""The outermost layer of the server: a request id, one line of log for each request, an answer whatever breaks.

Logs method, path, status and time. Never a query (links carry signatures), a header, a key, a token, a prompt
or bytes.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Sequence

import orjson
import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = structlog.get_logger(__name__)

ID_HEADER = "x-request-id"
QUIET_PATHS = re.compile(r"/(health|ready|metrics)")
"""Asked by machines every few seconds; logged at debug level unless refused, as are the faces' own quiet paths."""

_TOKEN = re.compile(r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_.-]+")
"""A token in a path: the address of an upload that is under way."""

_ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestLog:
    """Wraps the whole application (ASGI).

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
        given = Headers(scope=scope).get(ID_HEADER, "")  # the caller's own id, when it is a harmless one
        request_id = given if _ACCEPTABLE_ID.fullmatch(given) else uuid.uuid4().hex
        state = scope.setdefault("state", {})
        # A route may put a better id there, such as its job's; `FaceMount` adds the header names of its face.
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
                    await _answer_internal_error(send_with_id)
            finally:
                quiet = status < 400 and any(pattern.fullmatch(path) for pattern in self._quiet_paths)
                log = logger.debug if quiet else logger.info
                elapsed_ms = round((time.perf_counter() - began) * 1000, 1)
                log("request", method=scope["method"], path=path, status=status, elapsed_ms=elapsed_ms)


class FaceMount:
    """Wraps a face's application, so that its answers carry the request id under the names of its protocol."""

    HEADERS = "request_id_headers"

    def __init__(self, app: ASGIApp, request_id_headers: Sequence[str]) -> None:
        self._app = app
        self._request_id_headers = request_id_headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})[self.HEADERS] = self._request_id_headers
        await self._app(scope, receive, send)


async def _answer_internal_error(send: Send) -> None:
    message = "Something went wrong inside the server; it has been logged."
    body = orjson.dumps({"error": {"code": "internal_error", "message": message}})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 500, "headers": headers})
    await send({"type": "http.response.body", "body": body})
