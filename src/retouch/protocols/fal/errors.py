"""Every error in fal's shapes: which status, which body, which headers.

Two bodies exist: a list of problems for what is wrong with an input (usually 422), and one sentence with an
`error_type` for what happened to a request. Both get a top-level `message`, because one of the official
clients shows nothing else. A caller's value is never repeated whole, so no data URI comes back. Nothing here
knows HTTP: an `Answer` is a status, a body and headers as plain values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from retouch.errors import Failure, InvalidRequest, RetouchError
from retouch.protocols.fal.schemas import Endpoint
from retouch.protocols.outcome import MethodNotAllowed

DOCUMENTATION = "https://docs.fal.ai/errors/#"
"""Where the vendor explains an error type; its shape makes the link mandatory."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a body. loc: path to it from the body; context: the limits it broke."""

    loc: tuple[str | int, ...]
    message: str
    type: str
    context: Mapping[str, object] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        place = ".".join(str(part) for part in self.loc)
        return f"{place}: {self.message}" if place and f"'{place}'" not in self.message else self.message


class InvalidBody(InvalidRequest):
    """A body that does not fit its endpoint's schema; carries every problem found, in order."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__(_sentences(problems))
        self.problems = problems


class BadRequest(InvalidRequest):
    """A header or query value that is not what it must be; the body was not looked at."""


def check_method(method: str, path: str, *allowed: str) -> None:
    """Raise MethodNotAllowed unless `method` is one of `allowed`; HEAD goes with GET."""
    if (method if method != "HEAD" else "GET") not in allowed:
        raise MethodNotAllowed(method, path, ", ".join(allowed))


@dataclass(frozen=True, slots=True)
class Answer:
    """An error ready to be sent. text: one sentence. kind: the error type in fal's words."""

    status: int
    body: Mapping[str, Any]
    text: str
    kind: str
    headers: Mapping[str, str] = field(default_factory=dict)


_INPUT_TYPES: Mapping[str, str] = {
    "missing_parameter": "missing",
    "not_one_of": "one_of",
    "too_long": "string_too_long",
    "too_many_images": "sequence_too_long",
    "unsupported_parameter": "feature_not_supported",
    "invalid_image": "image_load_error",
    "unsupported_image_format": "unsupported_image_format",
    "image_too_small": "image_too_small",
    "image_too_large": "image_too_large",
    "image_unreachable": "file_download_error",
    "forbidden_address": "file_download_error",
    "content_refused": "content_policy_violation",
}
"""Codes that say what is wrong with an input, in fal's words; any other InvalidRequest is `value_error`."""

_VALUE_TYPES: Mapping[str, str] = {
    "string": "string_type",
    "integer": "int_parsing",
    "number": "float_parsing",
    "boolean": "bool_parsing",
    "array": "list_type",
    "object": "dict_type",
}

_CONTEXT_NAMES: Mapping[str, str] = {"max_bytes": "max_size"}
_CONTEXT_KEPT = (
    "expected",
    "max_length",
    "supported_formats",
    "min_width",
    "min_height",
    "max_width",
    "max_height",
    "max_pixels",
    "max_bytes",
    "ge",
    "le",
)

_REQUEST_ERRORS: Mapping[str, tuple[int, str]] = {
    "cancelled": (499, "client_cancelled"),
    "start_timeout": (504, "request_timeout"),
    "worker_lost": (503, "runner_disconnected"),
    "out_of_memory": (503, "runner_server_error"),
    "safety_unavailable": (503, "runner_server_error"),
    "queue_full": (429, "concurrent_requests_limit"),
    "idempotency_key_reused": (400, "bad_request"),
    "model_loading": (503, "runner_scheduling_failure"),
    "database_unavailable": (503, "runner_connection_error"),
    "storage_unavailable": (503, "runner_connection_error"),
    "unavailable": (503, "runner_scheduling_failure"),
    "body_too_large": (413, "bad_request"),
    "job_not_finished": (400, "bad_request"),
}
"""Codes that say what happened to a request: status and fal's `error_type`."""

_MODEL_ERRORS: Mapping[str, tuple[int, str]] = {
    "edit_timeout": (504, "generation_timeout"),
    "generation_timeout": (504, "generation_timeout"),
    "all_providers_exhausted": (500, "downstream_service_unavailable"),
    "upstream_outcome_unknown": (500, "downstream_service_error"),
    "upstream_result_lost": (500, "downstream_service_error"),
    "upstream_bad_image": (500, "downstream_service_error"),
}
"""Codes that say the edit itself went wrong; any other is a 500."""


def _codes(error: type[RetouchError]) -> frozenset[str]:
    return frozenset({error.code}).union(*(_codes(child) for child in error.__subclasses__()))


_INPUT_CODES = _codes(InvalidRequest)

_PLAIN: Mapping[str, int] = {
    "invalid_key": 401,
    "permission_denied": 403,
    "not_found": 404,
    "unknown_model": 404,
    "unknown_file": 404,
    "unknown_url": 404,
}

_HOSTED_TEXTS: Mapping[str, str] = {
    "cancelled": "Request cancelled by the client.",
    "start_timeout": "Request timed out",
    "job_not_finished": "Request is still in progress",
}
"""Sentences that programs compare with; the rest are our own."""


def answer_to(error: RetouchError, endpoint: Endpoint | None = None) -> Answer:
    """The answer to an error raised while a request was handled. `endpoint` gives fields their wire names."""
    if isinstance(error, InvalidBody):
        return _input_answer(422, error.problems)
    if isinstance(error, BadRequest):
        return _request_answer(400, "bad_request", error.message)
    if isinstance(error, MethodNotAllowed):
        body = {"detail": error.message, "message": error.message}
        return Answer(405, body, error.message, error.code, {"Allow": error.allowed})
    return answer_to_failure(error.failure, endpoint)


def answer_to_failure(failure: Failure, endpoint: Endpoint | None = None) -> Answer:
    """The same for what a job row keeps."""
    code = failure.code
    text = _HOSTED_TEXTS.get(code, failure.message)
    # A webhook's address is no input: both clients send it in the query.
    request_error = (400, "bad_request") if failure.field == "webhook_url" else _REQUEST_ERRORS.get(code)
    if request_error is not None:
        return _request_answer(*request_error, text)
    if code == "unknown_file" and failure.field is not None:
        # An input that was uploaded here and is gone by now.
        return _input_answer(422, (_problem(failure, endpoint, "file_download_error"),))
    if code in _PLAIN:
        return Answer(_PLAIN[code], {"detail": text, "message": text}, text, code)
    if code in ("unknown_job", "job_finished"):
        status, word = (404, "NOT_FOUND") if code == "unknown_job" else (400, "ALREADY_COMPLETED")
        return Answer(status, {"status": word, "detail": text, "message": text}, text, code)
    if code in _INPUT_TYPES or code in _INPUT_CODES:
        return _input_answer(422, (_problem(failure, endpoint, _input_type(failure)),))
    status, kind = _MODEL_ERRORS.get(code, (500, "internal_server_error"))
    return _input_answer(status, (_problem(failure, endpoint, kind),))


def _sentences(problems: Sequence[Problem]) -> str:
    """The problems as text; a message may end as a question."""
    return " ".join(p.sentence if p.sentence.endswith((".", "?")) else f"{p.sentence}." for p in problems)


def _input_answer(status: int, problems: tuple[Problem, ...]) -> Answer:
    text = _sentences(problems)
    detail = [
        {
            "loc": ["body", *problem.loc],
            "msg": problem.message,
            "type": problem.type,
            "url": DOCUMENTATION + problem.type,
            **({"ctx": dict(problem.context)} if problem.context else {}),
        }
        for problem in problems
    ]
    kind = problems[0].type
    headers = {"X-Fal-Error-Type": kind, "X-Fal-Billable-Units": "0"}
    if kind == "content_policy_violation":
        headers["X-Fal-Retryable"] = "false"
    return Answer(status, {"detail": detail, "message": text}, text, kind, headers)


def _request_answer(status: int, kind: str, text: str) -> Answer:
    headers = {"X-Fal-Error-Type": kind}
    if kind == "request_timeout":
        headers["X-Fal-Request-Timeout-Type"] = "user"
    if status == 429:
        headers["X-Fal-Needs-Retry"] = "1"
    return Answer(status, {"detail": text, "error_type": kind, "message": text}, text, kind, headers)


def _problem(failure: Failure, endpoint: Endpoint | None, kind: str) -> Problem:
    """The failure as a problem, with the field and the sentence in the words of the wire."""
    context = {
        _CONTEXT_NAMES.get(name, name): list(value) if isinstance(value, tuple) else value
        for name in _CONTEXT_KEPT
        if (value := failure.context.get(name)) is not None
    }
    if failure.field is None:
        return Problem((), failure.message, kind, context)
    loc = endpoint.location(failure.field) if endpoint else (failure.field,)
    written = ".".join(str(part) for part in loc)
    return Problem(loc, failure.message.replace(f"'{failure.field}'", f"'{written}'"), kind, context)


def _input_type(failure: Failure) -> str:
    if failure.code == "invalid_type":
        return _VALUE_TYPES.get(str(failure.context.get("expected_type")), "value_error")
    if failure.code == "out_of_range":
        # Which side was broken is in the table-driven check of `parse.py`; a limit found later has one.
        return "greater_than_equal" if "le" not in failure.context else "less_than_equal"
    if failure.code == "image_too_large" and "max_bytes" in failure.context:
        return "file_too_large"
    return _INPUT_TYPES.get(failure.code, "value_error")
