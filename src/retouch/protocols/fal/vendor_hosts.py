"""The vendor's host names as paths of this face, and the addresses a caller knows this server's services by.

A caller who maps `queue.fal.run` and its siblings to this server needs no other change: answers name the same hosts.
The proxy path leads there too. No name is resolved and nothing is sent to any of these hosts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.fal.errors import BadRequest
from retouch.protocols.http import origin_of

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


def files_origin_of(dependencies: AppDependencies, connection: HTTPConnection) -> str:
    """What links to files begin with, without a trailing slash; raises InvalidRequest."""
    if dependencies.public_url is not None:
        return dependencies.public_url
    return connection.scope.get(FILES_ORIGIN) or origin_of(dependencies.public_url, connection)


def queue_url_of(dependencies: AppDependencies, connection: HTTPConnection) -> str:
    """What the three addresses of a request begin with; raises InvalidRequest."""
    return connection.scope.get(QUEUE_URL) or f"{face_url_of(dependencies, connection)}/queue"


def cdn_url_of(dependencies: AppDependencies, connection: HTTPConnection) -> str:
    """What the addresses of uploads begin with; raises InvalidRequest."""
    return connection.scope.get(CDN_URL) or f"{face_url_of(dependencies, connection)}/cdn"


def face_url_of(dependencies: AppDependencies, connection: HTTPConnection) -> str:
    """Where this face is mounted, as the caller sees it; raises InvalidRequest."""
    return f"{origin_of(dependencies.public_url, connection)}{connection.scope.get('root_path', '')}"


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
        QUEUE_URL: f"{scheme}://queue.fal.run{port}",
        CDN_URL: f"{scheme}://v3.fal.media{port}",
        FILES_ORIGIN: f"{scheme}://v3.fal.media{port}",
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
            raise BadRequest(f"Invalid request: {TARGET_HEADER} must be an address of one of fal's hosts.")
        del headers[TARGET_HEADER]
        path = f"{scope.get('root_path', '')}{service}{unquote(url.path)}"
        await self._routes(_at(scope, path, url.query.encode()), receive, send)
