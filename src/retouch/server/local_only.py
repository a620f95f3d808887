"""Keeps the web pages in a browser on this machine from using this server, as long as it has no key.

A server that only this machine can reach works without authentication until the first key is made, and a browser is
on this machine. So in that unauthenticated mode a request must be for a name that cannot be registered (a page cannot
come here under a name of its own, as DNS rebinding does) and must not be sent by a page from another origin.
Once a key exists, or the operator has passed `--no-auth`, nothing is refused here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Collection
from urllib.parse import urlsplit

import orjson
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from retouch.errors import Unavailable

UNREGISTRABLE = (".localhost", ".local", ".internal", ".test")
"""Ends of names that cannot be registered, so that no other name server answers for them."""

HARMLESS_PATHS = frozenset({"/", "/health", "/ready"})
"""A link on any page may lead here: they start nothing, and no page can read them."""


class LocalOnlyGuard:
    """Wraps the application (ASGI).

    unauthenticated: whether every caller is accepted now because there is no key. own_names: the operator's names for
    this server. vendor_names: host names under which the vendors' clients reach it; pages there are not ours.
    """

    def __init__(
        self,
        app: ASGIApp,
        unauthenticated: Callable[[], Awaitable[bool]],
        own_names: Collection[str],
        vendor_names: Collection[str],
    ) -> None:
        self._app = app
        self._unauthenticated = unauthenticated
        self._own_names = own_names
        self._vendor_names = vendor_names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reason = self._foreign(scope) if scope["type"] in ("http", "websocket") else None
        if reason is not None:
            try:
                if await self._unauthenticated():
                    await _refuse(scope, send, reason)
                    return
            except Unavailable:
                pass  # no caller is accepted then, and the face says why in its own words
        await self._app(scope, receive, send)

    def _foreign(self, scope: Scope) -> str | None:
        """Why a request may come from a page of another site; None for all others, which is nearly every one."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        name = name_in(f"//{host}")
        if not (name in self._own_names or name in self._vendor_names or is_unregistrable(name)):
            return f"it does not answer to the name '{host[:100]}'"
        # Health routes; stored files, whose links are their own permission; CORS preflights.
        method, path = scope.get("method", ""), scope["path"]
        harmless = path in HARMLESS_PATHS or path.startswith("/files/")
        if method == "OPTIONS" or (method in ("GET", "HEAD") and harmless):
            return None
        origin = headers.get("origin")
        if origin is None:
            cross_site = headers.get("sec-fetch-site") == "cross-site"
            return "it takes no requests from pages of another site" if cross_site else None
        sender = name_in(origin)
        own = origin.partition("//")[2] == host or sender in self._own_names or is_this_machine(sender)
        return None if own else f"it takes no requests from pages of '{origin[:100]}'"


def name_in(url: str) -> str:
    """The host of an absolute URL in small letters; empty when there is none."""
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


def is_unregistrable(name: str) -> bool:
    """Whether no page can come here under `name`: an address, a bare name, a reserved one."""
    return "." not in name or _address(name) is not None or name.endswith(UNREGISTRABLE)


def is_this_machine(name: str) -> bool:
    address = _address(name)
    return address.is_loopback if address else name == "localhost" or name.endswith(".localhost")


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


async def _refuse(scope: Scope, send: Send, reason: str) -> None:
    """In the words of every face at once; a page may read it, so that its author learns what to do."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    message = (
        f"While this server has no key, {reason}. Make a key with 'retouch keys create NAME' and send it, "
        "name this address with --public-url, or start the server with --no-auth."
    )
    error = {"code": "permission_denied", "type": "invalid_request_error", "param": None, "message": message}
    body = orjson.dumps({"error": error, "detail": message, "message": message})
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"access-control-allow-origin", b"*"),
    ]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
