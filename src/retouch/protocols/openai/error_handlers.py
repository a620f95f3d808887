"""Turns everything that is raised under this face into OpenAI's error shape; FastAPI's own never shows.

It decides no status: `errors.py` has the table.
"""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from retouch.errors import Failure, InternalError, RetouchError
from retouch.protocols.field_names import failure_in_wire_names
from retouch.protocols.http import CLIENT_DISCONNECTED, json_response
from retouch.protocols.openai.errors import dump_error
from retouch.protocols.openai.parse import EditCall


def add_error_handlers(app: FastAPI) -> None:
    app.add_exception_handler(RetouchError, answer_error)
    app.add_exception_handler(HTTPException, answer_http_exception)
    app.add_exception_handler(RequestValidationError, answer_validation_error)
    app.add_exception_handler(ClientDisconnect, answer_disconnected)
    app.add_exception_handler(Exception, answer_bug)


def answer_error(request: Request, error: Exception) -> Response:
    """An error of ours, with the caller's own name of the parameter once the call was parsed."""
    assert isinstance(error, RetouchError), "registered for RetouchError only"
    call: EditCall | None = getattr(request.state, "call", None)
    return _answer(failure_in_wire_names(error.failure, call.wire_name) if call else error.failure)


def answer_http_exception(request: Request, error: Exception) -> Response:
    """404 and 405 of the router, and whatever else Starlette refuses."""
    assert isinstance(error, HTTPException), "registered for HTTPException only"
    target = f"{request.method} {request.url.path[:200]}"
    if error.status_code == 404:
        return _answer(Failure("unknown_url", f"There is nothing at {target}."))
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        response = _answer(Failure("method_not_allowed", f"{target} is not allowed; use {allowed}."))
        response.headers.update(error.headers or {})
        return response
    return _answer(Failure("invalid_value", str(error.detail)))


def answer_validation_error(_: Request, error: Exception) -> Response:
    """FastAPI's own check of paths and queries; this face leaves it nothing to find but is not silent if it does."""
    return _answer(Failure("invalid_value", f"The request is not valid: {error}"))


def answer_disconnected(_: Request, __: Exception) -> Response:
    """The caller hung up while sending."""
    return Response(status_code=CLIENT_DISCONNECTED)


def answer_bug(_: Request, __: Exception) -> Response:
    """A bug of ours. The SDKs may try again: it can be one moment's. The server's outermost layer logs it."""
    failure = InternalError("Something went wrong inside the server; it has been logged.").failure
    return _answer(failure, transient=True)


def _answer(failure: Failure, *, transient: bool = False) -> Response:
    answer = dump_error(failure, transient=transient)
    return json_response(answer.body, answer.status, answer.headers)
