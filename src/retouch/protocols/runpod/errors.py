"""Errors in RunPod's shapes: the status and body of a refused call, and the sentence of a failed job.

The body holds one sentence twice, as strings, because some clients read `error` and others `message`. Nothing here
knows HTTP or raises anything.
"""

from __future__ import annotations

from collections.abc import Mapping

from retouch.errors import Failure, InvalidRequest, RetouchError

_STATUSES: Mapping[str, int] = {
    "invalid_key": 401,
    "permission_denied": 403,
    "not_found": 404,
    "unknown_model": 404,
    "unknown_job": 404,
    "unknown_file": 404,
    "unknown_url": 404,
    "method_not_allowed": 405,
    "body_too_large": 413,
    "queue_full": 429,
    "job_finished": 400,
    "job_not_finished": 400,
    "idempotency_key_reused": 400,
    "unavailable": 503,
    "model_loading": 503,
    "database_unavailable": 503,
    "storage_unavailable": 503,
    "safety_unavailable": 503,
}
"""Codes with a status of their own; what is wrong with a request is 400, all else is a fault of this server."""

_INVALID_IMAGE_URL = frozenset({"image_unreachable", "forbidden_address", "invalid_image", "unsupported_image_format"})

TIMED_OUT = frozenset({"edit_timeout", "generation_timeout", "start_timeout"})
"""Codes of failed jobs whose state has a word of its own."""

RETRY_AFTER_S = 1
"""Python's client waits up to 16 seconds between its tries unless it is told."""


def _codes(error: type[RetouchError]) -> frozenset[str]:
    return frozenset({error.code}).union(*(_codes(child) for child in error.__subclasses__()))


_INVALID = _codes(InvalidRequest)


def status_of(failure: Failure) -> int:
    status = _STATUSES.get(failure.code)
    if status is not None:
        return status
    return 400 if failure.code in _INVALID else 500


def dump_error(failure: Failure) -> tuple[int, dict[str, str], dict[str, str]]:
    """Status, body and headers of a refused call."""
    status = status_of(failure)
    headers = {"retry-after": str(RETRY_AFTER_S)} if status in (429, 503) else {}
    return status, {"error": failure.message, "message": failure.message}, headers


def sentence_of(failure: Failure) -> str:
    """The `error` of a failed job; an image that cannot be had begins with the vendor's words for it."""
    if failure.code in _INVALID_IMAGE_URL:
        return f"Invalid image URL: {failure.message}"
    return failure.message
