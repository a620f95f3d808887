"""What the fal protocol is to the server: its mounts with their paths, and how its official clients are led here.

Every route takes every method and refuses in fal's own shape; what a path does is in `routes.py` and the modules of the
other services. The same queue is mounted again in the shape in which resellers pass it on.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TypeAlias
from urllib.parse import urlsplit

from starlette import routing
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from retouch.errors import RetouchError
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.error_handlers import add_error_handlers
from retouch.protocols.face import ClientAddress, Face, Mount, export_lines
from retouch.protocols.fal import api_docs, platform, realtime, reseller, routes, storage
from retouch.protocols.fal.dump import BILLABLE_UNITS_HEADER, NOTICES_HEADER, REQUEST_ID_HEADER
from retouch.protocols.fal.errors import Answer, answer_to
from retouch.protocols.fal.vendor_hosts import SERVICES, ByHost, Proxy
from retouch.protocols.fal.webhooks import message

Handler: TypeAlias = Callable[[AppDependencies, Request], Awaitable[Response]]
Respond: TypeAlias = Callable[[Request, Answer], Response]

MOUNT = "/fal"

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""The vendor's clients may use any of them for `run`."""

PATHS: Mapping[str, Handler] = {
    "/queue/{path:path}": routes.queue,
    "/run/{path:path}": routes.run,
    "/rest/{path:path}": storage.rest,
    "/cdn/{path:path}": storage.cdn,
    "/models/{path:path}": api_docs.llms,
    "/openapi.json": api_docs.openapi,
    "/api/openapi/queue/openapi.json": api_docs.openapi,
}
ANY_PATH = "/{path:path}"


def create_face(dependencies: AppDependencies) -> Starlette:
    """The fal protocol as an application to be mounted at `/fal`."""
    app = create_app(dependencies, PATHS, lambda _, answer: routes.error_response(answer))
    platform_app = create_app(dependencies, {ANY_PATH: platform.handle}, platform.error_response)
    app.router.routes += [
        routing.WebSocketRoute("/run/{path:path}", partial(realtime.handle, dependencies)),
        routing.Mount("/api/v1", platform_app),
        *(routing.Route(path, Proxy(app.router), methods=METHODS) for path in ("/proxy", "/proxy/")),
    ]
    return app


def create_app(dependencies: AppDependencies, paths: Mapping[str, Handler], respond: Respond) -> Starlette:
    """An application with the error shapes of this face. respond: an error as its caller reads it."""
    app = Starlette(
        routes=[routing.Route(path, partial(handler, dependencies), methods=METHODS) for path, handler in paths.items()]
    )
    app.router.redirect_slashes = False

    def answer(request: Request, error: RetouchError) -> Response:
        return respond(request, answer_to(error, getattr(request.state, "endpoint", None)))

    add_error_handlers(app, answer, unknown_url="Path {path} not found")
    return app


def _reseller_app(handler: Handler) -> Callable[[AppDependencies], Starlette]:
    return lambda dependencies: create_app(dependencies, {ANY_PATH: handler}, reseller.error_response)


_PROXY_NOTES = """\
unset FAL_RUN_HOST FAL_QUEUE_RUN_HOST https_proxy NO_PROXY no_proxy
# Every https call of a program started here goes to the proxy, which leads fal's hosts to this server and refuses
# every other host. It serves all of Python's client, and Node's from Node 24 on.
"""

_NOTES = """\
# Python: these variables lead run, subscribe, submit, status, result, cancel and stream here, but neither uploads
# nor realtime tokens. For those use --forward-proxy, or say before the first call:
#   from fal_client import client
#   client.REST_URL, client.CDN_URL = "{address}/fal/rest", "{address}/fal/cdn"
# JavaScript reads no variable but FAL_KEY; in the code:
#   fal.config({{ proxyUrl: {{ url: "{address}/fal/proxy", when: "always" }} }})
"""


def _client_exports(client: ClientAddress) -> str:
    """fal's Python client builds https addresses from host names, whatever they are; a path may follow the host."""
    if client.forward_proxy is not None:
        return export_lines(FAL_KEY="any", HTTPS_PROXY=client.forward_proxy, NODE_USE_ENV_PROXY="1") + _PROXY_NOTES
    parts = urlsplit(client.url)
    host = parts.netloc + parts.path
    lines = export_lines(FAL_KEY="any", FAL_RUN_HOST=f"{host}/fal/run", FAL_QUEUE_RUN_HOST=f"{host}/fal/queue")
    if parts.scheme != "https":
        lines += "# fal's Python client speaks https only: use --tls auto, or a proxy with a certificate.\n"
    return lines + _NOTES.format(address=client.url)


FACE = Face(
    name=routes.PROTOCOL,
    mounts=(
        Mount(MOUNT, create_face, (REQUEST_ID_HEADER,)),
        Mount("/fal-ai", _reseller_app(reseller.queue), reseller.ID_HEADERS),
        Mount("/api/usage", _reseller_app(reseller.usage), reseller.ID_HEADERS),
    ),
    webhook=message,
    vendor_hosts={host: MOUNT + service for host, service in SERVICES.items()},
    by_host=ByHost,
    quiet_paths=re.compile(r"/.+/requests/[^/]+/status/?"),
    exposed_headers=(
        "x-fal-request-timeout-type",
        "x-fal-error-type",
        BILLABLE_UNITS_HEADER,
        "x-fal-needs-retry",
        "x-fal-retryable",
        NOTICES_HEADER,
    ),
    client_exports=_client_exports,
)
