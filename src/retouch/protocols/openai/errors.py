"""How each of our error codes looks to an OpenAI client: status, type, code, and whether to try again.

One table; nothing else decides a status. It raises nothing and sends nothing: `routes.py` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from retouch.errors import Failure

INVALID = "invalid_request_error"
MAX_RETRY_AFTER_S = 60
"""A longer Retry-After stops Python's retries and is ignored by JavaScript's (openai.md 6.3)."""


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """status, type and code on the wire; gateway_code: Lumenfall's word for it, if it has one.

    should_retry: the `x-should-retry` header; None leaves the SDK's own rule for the status.
    retry_after_s: the `Retry-After` header.
    """

    status: int
    type: str
    code: str
    gateway_code: str | None = None
    should_retry: bool | None = None
    retry_after_s: int | None = None


def _invalid(code: str, gateway_code: str = "INVALID_REQUEST") -> ErrorRow:
    return ErrorRow(400, INVALID, code, gateway_code)


def _busy(code: str, retry_after_s: int) -> ErrorRow:
    return ErrorRow(503, "server_error", code, retry_after_s=retry_after_s)


_TIMEOUT = ErrorRow(504, "server_error", "generation_timeout", should_retry=False)
_BUG = ErrorRow(500, "server_error", "internal_error", should_retry=False)
_BODY_TOO_LARGE = ErrorRow(413, INVALID, "image_too_large", "INVALID_REQUEST")
_NO_URL = ErrorRow(404, INVALID, "unknown_url")


def _upstream(code: str) -> ErrorRow:
    """Of a hosted provider. Whether the edit is paid for already is not for an SDK to find out by trying again."""
    return ErrorRow(502, "upstream_error", code, "UPSTREAM_ERROR", should_retry=False)


ROWS: Mapping[str, ErrorRow] = {
    "invalid_value": _invalid("invalid_value"),
    "missing_parameter": _invalid("missing_required_parameter"),
    "invalid_type": _invalid("invalid_type"),
    "out_of_range": _invalid("invalid_value"),
    "not_one_of": _invalid("invalid_value"),
    "too_long": _invalid("invalid_value"),
    "too_many_images": _invalid("too_many_images"),
    "unsupported_parameter": _invalid("unsupported_parameter"),
    "unsupported_mode": _invalid("unsupported_mode"),
    "unsupported_media_type": ErrorRow(415, INVALID, "unsupported_media_type", "INVALID_REQUEST"),
    "body_too_large": _BODY_TOO_LARGE,
    "method_not_allowed": ErrorRow(405, INVALID, "method_not_allowed"),
    "invalid_image": _invalid("invalid_image"),
    "unsupported_image_format": _invalid("invalid_image"),
    "image_too_small": _invalid("invalid_image"),
    "image_too_large": _invalid("invalid_image"),
    "image_unreachable": _invalid("invalid_image_url"),
    "forbidden_address": _invalid("invalid_image_url"),
    "invalid_lora": _invalid("invalid_lora"),
    "content_refused": _invalid("content_policy_violation", "CONTENT_POLICY_VIOLATION"),
    "cancelled": ErrorRow(400, INVALID, "request_cancelled"),
    "invalid_key": ErrorRow(401, "authentication_error", "invalid_api_key", "AUTHENTICATION_FAILED"),
    "permission_denied": ErrorRow(403, "permission_error", "permission_denied"),
    "unknown_model": ErrorRow(404, INVALID, "model_not_found", "MODEL_NOT_FOUND"),
    "not_found": _NO_URL,
    "unknown_url": _NO_URL,
    "unknown_job": _NO_URL,
    "unknown_file": _NO_URL,
    "idempotency_key_reused": ErrorRow(422, INVALID, "idempotency_key_reused"),
    "job_not_finished": _busy("job_not_finished", 5),
    "job_finished": ErrorRow(400, INVALID, "job_finished"),
    "queue_full": ErrorRow(429, "rate_limit_error", "queue_full", "RATE_LIMITED", retry_after_s=5),
    "start_timeout": _TIMEOUT,
    "edit_timeout": _TIMEOUT,
    "generation_timeout": _TIMEOUT,
    "all_providers_exhausted": ErrorRow(502, "upstream_error", "all_providers_exhausted", "ALL_PROVIDERS_EXHAUSTED"),
    "upstream_outcome_unknown": _upstream("upstream_outcome_unknown"),
    "upstream_result_lost": _upstream("upstream_result_lost"),
    "upstream_bad_image": _upstream("upstream_bad_image"),
    "out_of_memory": ErrorRow(500, "server_error", "out_of_memory", should_retry=False),
    "edit_failed": _BUG,
    "lease_lost": _BUG,
    # Every attempt of ours has already killed a worker; each retry would kill three more.
    "worker_lost": _BUG,
    "internal_error": _BUG,
    "unavailable": _busy("unavailable", 5),
    "model_loading": _busy("model_loading", 10),
    "database_unavailable": _busy("database_unavailable", 5),
    "storage_unavailable": _busy("storage_unavailable", 5),
    "safety_unavailable": _busy("safety_unavailable", 5),
}
"""Codes of `retouch.errors` to OpenAI's. A code that is missing here is a bug of ours and answers 500."""


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


def row_of(failure: Failure) -> ErrorRow:
    if failure.code == "image_too_large" and "max_bytes" in failure.context:
        return _BODY_TOO_LARGE
    return ROWS.get(failure.code, _BUG)


def dump_error(failure: Failure, *, transient: bool = False) -> ErrorAnswer:
    """The answer for `failure`, whose field is named as the caller named it.

    transient: an unexpected fault of this server while it answered, which another try may not meet; leaves the SDK
    its own retry rule.
    """
    row = row_of(failure)
    error: dict[str, Any] = {"message": failure.message, "type": row.type, "param": failure.field, "code": row.code}
    if row.gateway_code is not None:
        error["gateway_code"] = row.gateway_code
    stage, category = failure.context.get("stage"), failure.context.get("category")
    if failure.code == "content_refused" and stage is not None:
        error["moderation_details"] = {
            "moderation_stage": "output" if stage == "output" else "input",
            "categories": [] if category is None else [category],
        }
    headers: dict[str, str] = {}
    should_retry = False if failure.context.get("may_be_owed") else row.should_retry
    if should_retry is not None and not transient:
        headers["x-should-retry"] = "true" if should_retry else "false"
    if row.retry_after_s is not None:
        wanted = failure.context.get("retry_after_s")
        seconds = row.retry_after_s if not isinstance(wanted, int | float) else int(wanted)
        headers["retry-after"] = str(min(max(seconds, 1), MAX_RETRY_AFTER_S))
    return ErrorAnswer(row.status, {"error": error}, headers)
