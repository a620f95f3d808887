"""Turns everything that is raised under this face into OpenAI's error shape; FastAPI's own never shows.

It decides no status: `errors.py` has the table.
"""

from __future__ import annotations

import orjson
import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from retouch.errors import EditCancelled, EditFailed, Failure, InternalError, RetouchError
from retouch.jobs.job import Job, JobState
from retouch.protocols.openai.errors import dump_error
from retouch.protocols.openai.wire import EditCall, in_wire_names

CLIENT_GONE = 499
"""nginx's status for an answer nobody reads; it reaches the log only."""

log = structlog.get_logger(__name__)


class EndedInFailure(EditFailed):
    """A job's stored failure, raised again for its caller."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message, field=failure.field, **failure.context)
        self._failure = failure

    @property
    def failure(self) -> Failure:
        return self._failure


def add_refusals(app: FastAPI) -> None:
    app.add_exception_handler(RetouchError, answer_error)
    app.add_exception_handler(HTTPException, answer_http_exception)
    app.add_exception_handler(RequestValidationError, answer_validation_error)
    app.add_exception_handler(ClientDisconnect, answer_nobody)
    app.add_exception_handler(Exception, answer_bug)


def raise_unless_succeeded(job: Job) -> None:
    """Raise what a final job ended with, unless it has pictures."""
    if job.state is JobState.CANCELLED:
        raise EditCancelled(f"The edit was cancelled (job {job.id}).")
    if job.failure is not None:
        raise EndedInFailure(job.failure)
    assert job.state is JobState.SUCCEEDED, "only final jobs are answered"


def answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RetouchError), "registered for RetouchError only"
    call: EditCall | None = getattr(request.state, "call", None)
    failure, param = in_wire_names(error.failure, call)
    return _answer(failure, param)


def answer_http_exception(request: Request, error: Exception) -> Response:
    """404 and 405 of the router, and whatever else Starlette refuses."""
    assert isinstance(error, HTTPException), "registered for HTTPException only"
    asked = f"{request.method} {request.url.path[:200]}"
    if error.status_code == 404:
        return _answer(Failure("unknown_url", f"There is nothing at {asked}."))
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        response = _answer(Failure("method_not_allowed", f"{asked} is not allowed; use {allowed}."))
        response.headers.update(error.headers or {})
        return response
    return _answer(Failure("invalid_value", str(error.detail)))


def answer_validation_error(_: Request, error: Exception) -> Response:
    """FastAPI's own check of paths and queries; this face leaves it nothing to find but is not silent if it does."""
    return _answer(Failure("invalid_value", f"The request is not valid: {error}"))


def answer_nobody(_: Request, __: Exception) -> Response:
    """The caller hung up while sending."""
    return nobody()


def nobody() -> Response:
    return Response(status_code=CLIENT_GONE)


def answer_bug(_: Request, __: Exception) -> Response:
    """A bug of ours. The SDKs may try again: it can be one moment's. The server's outermost layer logs it."""
    failure = InternalError("Something went wrong inside the server; it has been logged.").failure
    return _answer(failure, transient=True)


def _answer(failure: Failure, param: str | None = None, *, transient: bool = False) -> Response:
    answer = dump_error(failure, param, transient=transient)
    return Response(orjson.dumps(answer.body), answer.status, answer.headers, "application/json")
