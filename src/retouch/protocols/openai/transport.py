"""What every answer of this face needs on the connection, whatever it says.

A request id on each answer; the rest of an upload read before it is refused, because JavaScript's fetch
reports a broken pipe instead of the status otherwise; and the headers a browser asks for. It looks at no
body and knows no parameter.
"""

from __future__ import annotations

import asyncio
import uuid

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

DRAIN_S = 10.0
"""How long the rest of a refused upload is read, in seconds; then the connection closes on it."""

REQUEST_ID = "retouch.request_id"
"""Where in the ASGI scope the id of this request is: the one the server logs, where it logs."""

_EXPOSED = (
    "x-request-id, retry-after, retry-after-ms, x-should-retry, x-ignored-parameters, x-provider, x-model, "
    "idempotent-replayed"
)
_ALLOWED_HEADERS = "authorization, content-type, idempotency-key, openai-organization, openai-project"


class OpenAITransport:
    """ASGI middleware around the face."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope[REQUEST_ID] = structlog.contextvars.get_contextvars().get("request") or uuid.uuid4().hex
        headers = Headers(scope=scope)
        exchange = _Exchange(scope, receive, send, headers)
        if scope["method"] == "OPTIONS":
            await exchange.answer_preflight()
        else:
            await self.app(scope, exchange.receive, exchange.send)


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, headers: Headers) -> None:
        self._scope, self._receive, self._send, self._headers = scope, receive, send, headers
        self._body_pending = scope["method"] not in ("GET", "HEAD", "OPTIONS")
        self._body_begun = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._body_begun = True
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._body_pending = False
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if message["status"] >= 400:
                await self._drain()
            self._add_headers(message)
        await self._send(message)

    async def answer_preflight(self) -> None:
        start: Message = {"type": "http.response.start", "status": 204, "headers": []}
        self._add_headers(start)
        added = MutableHeaders(raw=start["headers"])
        added["access-control-allow-origin"] = "*"
        added["access-control-allow-methods"] = "GET, POST, OPTIONS"
        added["access-control-allow-headers"] = self._headers.get("access-control-request-headers", _ALLOWED_HEADERS)
        added["access-control-max-age"] = "600"
        await self._send(start)
        await self._send({"type": "http.response.body", "body": b""})

    def _add_headers(self, start: Message) -> None:
        start["headers"] = list(start.get("headers", ()))
        added = MutableHeaders(raw=start["headers"])
        added["x-request-id"] = self._scope[REQUEST_ID]
        if "origin" in self._headers:
            added["access-control-allow-origin"] = "*"
            added["access-control-expose-headers"] = _EXPOSED

    async def _drain(self) -> None:
        """Read the rest of the body and drop it, unless the client waits to be asked for it."""
        if not self._body_begun and self._headers.get("expect", "").lower() == "100-continue":
            return
        try:
            async with asyncio.timeout(DRAIN_S):
                while self._body_pending:
                    await self.receive()
        except TimeoutError:
            return
