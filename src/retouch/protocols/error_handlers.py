"""Turns everything that is raised under a face into an error of ours; the web framework's own never shows.

The face answers it in its vendor's shape. No status is decided here.
"""

from __future__ import annotations

from collections.abc import Callable

from fastapi.exceptions import RequestValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from retouch.errors import InternalError, InvalidRequest, RetouchError, UnknownUrl
from retouch.protocols.http import CLIENT_DISCONNECTED
from retouch.protocols.outcome import MethodNotAllowed

Respond = Callable[[Request, RetouchError], Response]


class UnexpectedError(InternalError):
    """A bug that ended one request; the next try may not meet it. The server's outermost layer logs it."""


def add_error_handlers(
    app: Starlette, respond: Respond, *, unknown_url: str = "There is nothing at {method} {path}."
) -> None:
    """`unknown_url` is the sentence for a path that no route has, with its `{method}` and `{path}`."""

    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, RetouchError), "registered for RetouchError only"
        return respond(request, error)

    async def of_the_router(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException), "registered for HTTPException only"
        path = request.url.path[:200]
        if error.status_code == 404:
            return respond(request, UnknownUrl(unknown_url.format(method=request.method, path=path)))
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "another method").split(", ")
            return respond(request, MethodNotAllowed(request.method, path, ", ".join(sorted(allowed))))
        return respond(request, InvalidRequest(str(error.detail)))

    async def of_the_framework(request: Request, error: Exception) -> Response:
        """FastAPI's check of paths and queries, to which no face leaves anything to find."""
        return respond(request, InvalidRequest(f"The request is not valid: {error}"))

    async def hung_up(_: Request, __: Exception) -> Response:
        return Response(status_code=CLIENT_DISCONNECTED)

    async def bug(request: Request, _: Exception) -> Response:
        return respond(request, UnexpectedError("Something went wrong inside the server; it has been logged."))

    app.add_exception_handler(RetouchError, ours)
    app.add_exception_handler(HTTPException, of_the_router)
    app.add_exception_handler(RequestValidationError, of_the_framework)
    app.add_exception_handler(ClientDisconnect, hung_up)
    app.add_exception_handler(Exception, bug)
