"""What headers and query say beside the body: priority, deadlines, retention, webhook, idempotency.

Unknown headers are left alone, as the vendor promises; a known one with a value that cannot be meant is
refused. Reads plain mappings, knows no HTTP library.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from retouch.edit import MAX_RETENTION_S, Notice
from retouch.jobs.job import PRIORITY_LOW, PRIORITY_NORMAL
from retouch.protocols.fal.errors import BadRequest

REQUEST_ID_HEADER = "x-fal-request-id"
NOTICES_HEADER = "x-retouch-notices"
BILLABLE_UNITS_HEADER = "x-fal-billable-units"

MAX_WEBHOOK_URL = 8192
MAX_IDEMPOTENCY_KEY = 255
MAX_SECONDS = MAX_RETENTION_S
"""For every length of time a caller may name."""

_ACL_NOTICE = Notice(
    "initial_acl", "ignored", "Files are read by unguessable signed links; there is no list of readers."
)


@dataclass(frozen=True, slots=True)
class SubmitOptions:
    """None of it changes the image.

    start_timeout_s counts from submit. max_queue_length: refuse when more jobs than that are waiting.
    """

    priority: int = PRIORITY_NORMAL
    start_timeout_s: float | None = None
    max_queue_length: int | None = None
    webhook_url: str | None = None
    retention_s: float | None = None
    keep_payload: bool = True
    idempotency_key: str | None = None
    notices: tuple[Notice, ...] = ()


def parse_submit_options(headers: Mapping[str, str], query: Mapping[str, str]) -> SubmitOptions:
    """What headers (names in lower case) and query ask for. Unknown ones are left alone. Raises BadRequest."""
    retention_s, notices = parse_lifecycle(headers)
    idempotency_key = headers.get("idempotency-key")
    if idempotency_key and len(idempotency_key) > MAX_IDEMPOTENCY_KEY:
        raise BadRequest(
            f"Idempotency-Key has {len(idempotency_key)} characters; at most {MAX_IDEMPOTENCY_KEY} are allowed."
        )
    return SubmitOptions(
        priority=_priority(headers.get("x-fal-queue-priority")),
        start_timeout_s=_positive_seconds("X-Fal-Request-Timeout", headers.get("x-fal-request-timeout")),
        max_queue_length=_count("fal_max_queue_length", query.get("fal_max_queue_length")),
        webhook_url=_web_address("fal_webhook", query.get("fal_webhook")),
        retention_s=retention_s,
        keep_payload=headers.get("x-fal-store-io", "").strip() != "0",
        idempotency_key=idempotency_key or None,
        notices=notices,
    )


def _priority(text: str | None) -> int:
    if text is None or text.strip().lower() in ("", "normal"):
        return PRIORITY_NORMAL
    if text.strip().lower() == "low":
        return PRIORITY_LOW
    raise BadRequest(f"X-Fal-Queue-Priority must be normal or low, not '{text[:40]}'.")


def _positive_seconds(name: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_SECONDS:
        raise BadRequest(f"{name} must be a number of seconds above 0 and up to {MAX_SECONDS:g}, not '{text[:40]}'.")
    return seconds


def _count(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or len(text) > 9:
        raise BadRequest(f"{name} must be a whole number from 0, not '{text[:40]}'.")
    return int(text)


def _web_address(name: str, text: str | None) -> str | None:
    if text is None:
        return None
    usable = text.isascii() and text.isprintable() and len(text) <= MAX_WEBHOOK_URL
    if not usable or not text.lower().startswith(("http://", "https://")):
        raise BadRequest(f"{name} must be an absolute http(s) address in ASCII, not '{text[:60]}'.")
    return text


def parse_lifecycle(headers: Mapping[str, str]) -> tuple[float | None, tuple[Notice, ...]]:
    """How long files shall live, and what of the header is not honoured. 0 and null mean the default."""
    names = ("X-Fal-Object-Lifecycle-Preference", "X-Fal-Object-Lifecycle")
    name = next((n for n in names if headers.get(n.lower())), None)
    if name is None:
        return None, ()
    try:
        wanted = orjson.loads(headers[name.lower()])
    except ValueError:
        wanted = None
    if not isinstance(wanted, dict):
        raise BadRequest(f"{name} must be a JSON object.")
    seconds = wanted.get("expiration_duration_seconds")
    number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if seconds is not None and not (number and 0 <= seconds <= MAX_SECONDS):
        raise BadRequest(f"{name}: expiration_duration_seconds must be from 0 to {MAX_SECONDS:g}, not {seconds!r:.40}.")
    acl = wanted.get("initial_acl")
    return (float(seconds) if seconds else None), (_ACL_NOTICE,) if acl else ()
