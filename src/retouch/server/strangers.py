"""Keeps the web pages that somebody visits from using their own server, as long as it has no key.

A server that only this machine can reach lets everybody in until the first key is made, and a browser is on
this machine. So while the door is open that way, a request must be for a name nobody else can own (a page
cannot come here under a name of its own, as DNS rebinding does) and must not be sent by a page from elsewhere.
Once a key exists, or the operator has passed `--no-auth`, nothing is refused here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import orjson
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from retouch.errors import Unavailable
from retouch.protocols.fal.hosts import SERVICES

OWNERLESS = (".localhost", ".local", ".internal", ".test")
"""Ends of names that nobody can register, so that no stranger's name server answers for them."""

HARMLESS_PATHS = frozenset({"/", "/health", "/ready"})
"""A link on any page may lead here: they start nothing, and no page can read them."""


class StrangersOutside:
    """Wraps the application (ASGI). open_door: whether everybody is let in by default now.

    public_url: the operator's own name for this server, which is no stranger's.
    """

    def __init__(self, app: ASGIApp, open_door: Callable[[], Awaitable[bool]], public_url: str | None) -> None:
        self._app = app
        self._open_door = open_door
        self._public_name = name_in(public_url) if public_url else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reason = self._suspicion(scope) if scope["type"] in ("http", "websocket") else None
        if reason is not None and await self._everybody_may_enter():
            await _refuse(scope, send, reason)
        else:
            await self._app(scope, receive, send)

    async def _everybody_may_enter(self) -> bool:
        try:
            return await self._open_door()
        except Unavailable:
            return False  # nobody is let in then, and the face says why in its own words

    def _suspicion(self, scope: Scope) -> str | None:
        """Why a request may come from somebody else's page; None for all others, which is nearly every one."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        name = name_in(f"//{host}")
        if not (name in SERVICES or name == self._public_name or is_ownerless(name)):
            return f"it does not answer to the name '{host[:100]}'"
        if _starts_nothing(scope):
            return None
        origin = headers.get("origin")
        if origin is None:
            stranger = headers.get("sec-fetch-site") == "cross-site"
            return "it takes no requests from pages of another site" if stranger else None
        sender = name_in(origin)
        at_home = origin.partition("//")[2] == host or sender == self._public_name or is_this_machine(sender)
        return None if at_home else f"it takes no requests from pages of '{origin[:100]}'"


def name_in(url: str) -> str:
    """The host of an absolute URL in small letters; empty when there is none."""
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


def is_ownerless(name: str) -> bool:
    """Whether nobody can make a browser come here under `name`: an address, a bare name, a reserved one."""
    return "." not in name or _address(name) is not None or name.endswith(OWNERLESS)


def is_this_machine(name: str) -> bool:
    address = _address(name)
    return address.is_loopback if address else name == "localhost" or name.endswith(".localhost")


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _starts_nothing(scope: Scope) -> bool:
    """The signs of life; stored files, whose links are their own permission; the question before a call."""
    method, path = scope.get("method", ""), scope["path"]
    reads = method in ("GET", "HEAD") and (path in HARMLESS_PATHS or path.startswith("/files/"))
    return reads or method == "OPTIONS"


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
