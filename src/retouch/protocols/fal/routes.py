"""Puts the fal face together: paths to handlers, errors to fal's shapes, ids and CORS on every answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeAlias

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute

from retouch.errors import InternalError, RetouchError, UnknownUrl
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.fal import pages, queue, realtime, run, storage
from retouch.protocols.fal.errors import Answer, MethodNotAllowed, answer_to
from retouch.protocols.fal.exchange import NOTICES_HEADER, REQUEST_ID_HEADER, RequestIds, error_response
from retouch.protocols.fal.hosts import Proxy

Handler: TypeAlias = Callable[[AppDependencies, Request], Awaitable[Response]]
Respond: TypeAlias = Callable[[Request, Answer], Response]

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""Every route takes them all and refuses in fal's own shape; the vendor's clients may use any for `run`."""

EXPOSED_HEADERS = (
    REQUEST_ID_HEADER,
    "x-fal-request-timeout-type",
    "x-fal-error-type",
    "x-fal-billable-units",
    "x-fal-needs-retry",
    NOTICES_HEADER,
)


def create_face(context: AppDependencies) -> FastAPI:
    """The fal protocol as an application to be mounted at `/fal`."""
    app = FastAPI(title="Retouch, fal protocol", openapi_url=None, docs_url=None, redoc_url=None)
    app.router.redirect_slashes = False
    route(app, context, "/queue/{path:path}", queue.handle)
    route(app, context, "/run/{path:path}", run.handle)
    app.router.routes.append(WebSocketRoute("/run/{path:path}", partial(realtime.handle, context)))
    route(app, context, "/rest/{path:path}", storage.rest)
    route(app, context, "/cdn/{path:path}", storage.cdn)
    route(app, context, "/models/{path:path}", pages.llms)
    for path in ("/openapi.json", "/api/openapi/queue/openapi.json"):
        route(app, context, path, pages.openapi)
    for path in ("/proxy", "/proxy/"):
        app.router.routes.append(Route(path, Proxy(app.router), methods=list(METHODS)))
    route(app, context, "/{path:path}", _unknown)
    add_manners(app, lambda _, answer: error_response(answer))
    return app


def add_manners(app: FastAPI, respond: Respond, id_headers: Sequence[str] = (REQUEST_ID_HEADER,)) -> None:
    """Error shapes, request ids and CORS, the same on every path. respond: an error as its caller reads it."""
    app.add_exception_handler(RetouchError, partial(_known_error, respond))
    app.add_exception_handler(HTTPException, partial(_http_error, respond))
    app.add_exception_handler(Exception, partial(_unexpected_error, respond))
    app.add_middleware(RequestIds, headers=id_headers)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=["*"],
        allow_methods=list(METHODS),
        allow_headers=["*"],
        expose_headers=list(EXPOSED_HEADERS),
        max_age=86_400,
    )


def route(app: FastAPI, context: AppDependencies, path: str, handler: Handler) -> None:
    """Send every method of a path to `handler`."""
    app.add_route(path, partial(handler, context), methods=list(METHODS), include_in_schema=False)


async def _unknown(_: AppDependencies, request: Request) -> Response:
    raise UnknownUrl(f"Path {request.url.path[:200]} not found")


async def _known_error(respond: Respond, request: Request, error: Exception) -> Response:
    assert isinstance(error, RetouchError)
    return respond(request, answer_to(error, getattr(request.state, "endpoint", None)))


async def _http_error(respond: Respond, request: Request, error: Exception) -> Response:
    """What the web framework refuses by itself: a method or a path nobody has."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        return respond(request, answer_to(MethodNotAllowed(request.method, request.url.path, ", ".join(METHODS))))
    return respond(request, answer_to(UnknownUrl(f"Path {request.url.path[:200]} not found")))


async def _unexpected_error(respond: Respond, request: Request, _: Exception) -> Response:
    """A bug of ours; the framework logs it. Sent from outside the other layers, hence the headers."""
    response = respond(request, answer_to(InternalError("Something went wrong on this server; it has been logged.")))
    response.headers["access-control-allow-origin"] = "*"
    response.headers[REQUEST_ID_HEADER] = getattr(request.state, "request_id", "unknown")
    return response
