"""The outermost layer of the server: a request id, one line of log for each request, an answer whatever breaks.

Logs method, path, status and time. Never a query (links carry signatures), a header, a key, a token, a prompt
or bytes.
"""

from __future__ import annotations

import re
import time
import uuid

import orjson
import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = structlog.get_logger(__name__)

ID_HEADER = "x-request-id"
QUIET_PATHS = re.compile(r"/(health|ready|metrics)|/.+/requests/[^/]+/status/?")
"""Asked by machines, the last ten times a second by each caller who waits; logged at debug level unless refused."""

_TOKEN = re.compile(r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_.-]+")
"""A token in a path: the address of an upload that is under way."""

_ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestLog:
    """Wraps the whole application (ASGI)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        request_id = _request_id(scope)
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).setdefault(ID_HEADER, request_id)
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
                log = logger.debug if status < 400 and QUIET_PATHS.fullmatch(path) else logger.info
                elapsed_ms = round((time.perf_counter() - began) * 1000, 1)
                log("request", method=scope["method"], path=path, status=status, elapsed_ms=elapsed_ms)


def _request_id(scope: Scope) -> str:
    """The caller's own id when it is a harmless one, else a new one."""
    given = Headers(scope=scope).get(ID_HEADER, "")
    return given if _ACCEPTABLE_ID.fullmatch(given) else uuid.uuid4().hex


async def _answer_internal_error(send: Send) -> None:
    message = "Something went wrong inside the server; it has been logged."
    body = orjson.dumps({"error": {"code": "internal_error", "message": message}})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 500, "headers": headers})
    await send({"type": "http.response.body", "body": body})
