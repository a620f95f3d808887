"""Reads a refused upload to its end before the refusal leaves.

A server that answers early and closes leaves JavaScript's `fetch` with a broken pipe in place of the status, and a
client with a retry sends everything again. Nothing of what is read is kept, and no body that is wanted is touched.
"""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

DRAIN_S = 10.0
"""How long the rest of a refused upload is read, in seconds; then the connection closes on it."""


class DrainRefusedUploads:
    """ASGI middleware: holds back an answer of 400 or more until the body has been read, for `DRAIN_S` at most."""

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
