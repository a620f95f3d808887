"""The vendor's host names as paths of this face: for callers who reach us by those names, and for the proxy path.

Somebody who maps `queue.fal.run` and its siblings to this server needs no other change. No name is resolved
and nothing is sent to any of these hosts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

from retouch.protocols.fal.errors import BadCall
from retouch.protocols.fal.exchange import CDN_BASE, FILES_BASE, QUEUE_BASE

SERVICES: Mapping[str, str] = {
    "fal.run": "/run",
    "falrun.com": "/run",
    "queue.fal.run": "/queue",
    "queue.falrun.com": "/queue",
    "rest.fal.ai": "/rest",
    "rest.alpha.fal.ai": "/rest",
    "v3.fal.media": "/cdn",
    "v3b.fal.media": "/cdn",
    "fal.media": "/cdn",
}
"""Host names of old and new clients, their backups included, and the service each stands for."""

TARGET_HEADER = "x-fal-target-url"


class ByHost:
    """Sends requests for one of the vendor's hosts to the face mounted at `mount`; all others pass through.

    Links to stored files go by a vendor's host too, and are the server's own: they pass through as well.
    """

    def __init__(self, app: ASGIApp, mount: str = "/fal") -> None:
        self._app = app
        self._mount = mount

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            name, _, port = Headers(scope=scope).get("host", "").lower().partition(":")
            service = SERVICES.get(name.rstrip("."))
            if service is not None:
                scope = {**scope, **_known_as(scope["scheme"], f":{port}" if port else "")}
                if service != "/cdn" or not _is_stored_file(scope):
                    scope = _at(scope, self._mount + service + scope["path"])
        await self._app(scope, receive, send)


def _known_as(scheme: str, port: str) -> dict[str, str]:
    """The addresses such a caller is given: the vendor's names, so that they come back here."""
    scheme = {"ws": "http", "wss": "https"}.get(scheme, scheme)
    return {
        QUEUE_BASE: f"{scheme}://queue.fal.run{port}",
        CDN_BASE: f"{scheme}://v3.fal.media{port}",
        FILES_BASE: f"{scheme}://v3.fal.media{port}",
    }


def _is_stored_file(scope: Scope) -> bool:
    path: str = scope["path"]
    reads = scope.get("method") in ("GET", "HEAD", "OPTIONS")
    return reads and path.startswith("/files/") and not path.startswith("/files/m/")


def _at(scope: Scope, path: str, query: bytes | None = None) -> dict[str, Any]:
    moved = {**scope, "path": path, "raw_path": path.encode()}
    return moved if query is None else {**moved, "query_string": query}


class Proxy:
    """One address for every call of a browser: where a call is meant to go stands in a header.

    Only this path looks at that header. `routes` is called with the request moved to where it belongs;
    bodies and answers pass through as they are.
    """

    def __init__(self, routes: ASGIApp) -> None:
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = MutableHeaders(scope=scope)
        target = headers.get(TARGET_HEADER, "")
        try:
            url = urlsplit(target)
            service = SERVICES.get(url.hostname or "") if url.scheme in ("http", "https", "ws", "wss") else None
        except ValueError:
            service = None
        if service is None:
            raise BadCall(f"Invalid request: {TARGET_HEADER} must be an address of one of fal's hosts.")
        del headers[TARGET_HEADER]
        path = f"{scope.get('root_path', '')}{service}{unquote(url.path)}"
        await self._routes(_at(scope, path, url.query.encode()), receive, send)
