"""Puts the fal face together: paths to handlers, errors to fal's shapes, ids and CORS on every answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from retouch.errors import InternalError, RetouchError, UnknownUrl
from retouch.protocols.context import FaceContext
from retouch.protocols.fal import pages, queue, run, storage
from retouch.protocols.fal.errors import MethodNotAllowed, answer_to
from retouch.protocols.fal.exchange import NOTICES_HEADER, REQUEST_ID_HEADER, RequestIds, error_response
from retouch.protocols.fal.hosts import Proxy

Handler: TypeAlias = Callable[[FaceContext, Request], Awaitable[Response]]

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


def create_face(context: FaceContext) -> FastAPI:
    """The fal protocol as an application to be mounted at `/fal`."""
    app = FastAPI(title="Retouch, fal protocol", openapi_url=None, docs_url=None, redoc_url=None)
    app.router.redirect_slashes = False
    _route(app, context, "/queue/{path:path}", queue.handle)
    _route(app, context, "/run/{path:path}", run.handle)
    _route(app, context, "/rest/{path:path}", storage.rest)
    _route(app, context, "/cdn/{path:path}", storage.cdn)
    _route(app, context, "/models/{path:path}", pages.llms)
    for path in ("/openapi.json", "/api/openapi/queue/openapi.json"):
        _route(app, context, path, pages.openapi)
    for path in ("/proxy", "/proxy/"):
        app.router.routes.append(Route(path, Proxy(app.router), methods=list(METHODS)))
    _route(app, context, "/{path:path}", _unknown)
    add_manners(app)
    return app


def add_manners(app: FastAPI) -> None:
    """Error shapes, request ids and CORS, the same on every path."""
    app.add_exception_handler(RetouchError, _known_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected_error)
    app.add_middleware(RequestIds)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=["*"],
        allow_methods=list(METHODS),
        allow_headers=["*"],
        expose_headers=list(EXPOSED_HEADERS),
        max_age=86_400,
    )


def _route(app: FastAPI, context: FaceContext, path: str, handler: Handler) -> None:
    app.add_route(path, partial(handler, context), methods=list(METHODS), include_in_schema=False)


async def _unknown(_: FaceContext, request: Request) -> Response:
    raise UnknownUrl(f"Path {request.url.path[:200]} not found")


async def _known_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RetouchError)
    return error_response(answer_to(error, getattr(request.state, "endpoint", None)))


async def _http_error(request: Request, error: Exception) -> Response:
    """What the web framework refuses by itself: a method or a path nobody has."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        return error_response(answer_to(MethodNotAllowed(request.method, request.url.path, ", ".join(METHODS))))
    return error_response(answer_to(UnknownUrl(f"Path {request.url.path[:200]} not found")))


async def _unexpected_error(request: Request, _: Exception) -> Response:
    """A bug of ours; the framework logs it. Sent from outside the CORS layer, hence the header."""
    response = error_response(answer_to(InternalError("Something went wrong on this server; it has been logged.")))
    response.headers["access-control-allow-origin"] = "*"
    response.headers[REQUEST_ID_HEADER] = getattr(request.state, "request_id", None) or "unknown"
    return response
