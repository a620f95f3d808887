"""The vendor's host names as paths of this face.

A caller who maps `queue.fal.run` and its siblings to this server needs no other change: answers name the same hosts.
The proxy path leads there too. No name is resolved and nothing is sent to any of these hosts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

from retouch.protocols.fal.errors import BadRequest

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
    "api.fal.ai": "/api",
}
"""Host names of old and new clients, their backups included, and the service each stands for."""

TARGET_HEADER = "x-fal-target-url"

QUEUE_URL, FILES_ORIGIN, CDN_URL = "fal.queue_url", "fal.files_origin", "fal.cdn_url"
"""Keys of the ASGI scope under which `ByHost` keeps the addresses of a caller who used one of the vendor's names."""


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
                scheme = {"ws": "http", "wss": "https"}.get(scope["scheme"], scope["scheme"])
                suffix = f":{port}" if port else ""
                media = f"{scheme}://v3.fal.media{suffix}"
                # Such a caller is given the vendor's names, so that they come back here.
                scope = {**scope, QUEUE_URL: f"{scheme}://queue.fal.run{suffix}", CDN_URL: media, FILES_ORIGIN: media}
                path: str = scope["path"]
                reads = scope.get("method") in ("GET", "HEAD", "OPTIONS")
                stored_file = reads and path.startswith("/files/") and not path.startswith("/files/m/")
                if service != "/cdn" or not stored_file:
                    scope = _at(scope, self._mount + service + path)
        await self._app(scope, receive, send)


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
            raise BadRequest(f"Invalid request: {TARGET_HEADER} must be an address of one of fal's hosts.")
        del headers[TARGET_HEADER]
        path = f"{scope.get('root_path', '')}{service}{unquote(url.path)}"
        await self._routes(_at(scope, path, url.query.encode()), receive, send)
