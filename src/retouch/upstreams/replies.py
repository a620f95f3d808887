"""What every kind reads alike in a provider's reply: the fault behind a status, ids, seeds, log lines that are new.

A kind looks at the provider's own codes first, for the same status carries different meanings (a refusal as 429, a
quota as 400), and comes here for the rest.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, TypeGuard

import orjson

from retouch.edit import MAX_SEED
from retouch.upstreams.transport import Reply
from retouch.upstreams.upstream import Fault, FaultKind

_KINDS: Final = {
    401: FaultKind.AUTHENTICATION,
    402: FaultKind.QUOTA,
    403: FaultKind.AUTHENTICATION,
    404: FaultKind.UNKNOWN_MODEL,
    405: FaultKind.UNKNOWN_MODEL,
    408: FaultKind.SERVER,
    425: FaultKind.THROTTLED,
    429: FaultKind.THROTTLED,
}
_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,200}(?<!\.)")
_FROM_A_PROXY: Final = (502, 503, 504)
_DATA_URI: Final = re.compile(r"data:[a-zA-Z0-9.+/;=-]*;base64,[A-Za-z0-9+/=_\\-]*")

MAX_PROVIDER_WORDS: Final = 300

_REMEMBERED_JOBS: Final = 4096

REFUSAL_WORDS: Final = re.compile(
    r"nsfw|flagged|content[ _-]?polic|safety (?:system|checker|filter)|moderat|inappropriate|sensitive|prohibited",
    re.IGNORECASE,
)
"""In texts of providers that have no code for a refusal."""

INVALID_WORDS: Final = re.compile(
    r"\binvalid\b|is required|must be|not (?:a )?valid|unsupported|validation|unprocessable|cannot identify image",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class ProviderError:
    """What a provider's own shape says of an error. kind: where its code decides; ours: it was its shape at all."""

    message: str
    code: str = ""
    kind: FaultKind | None = None
    ours: bool = True


def fault_of(reply: Reply, error: ProviderError, *, charged: bool | None, retry_after_s: float | None = None) -> Fault:
    """The fault behind an answer that is no success. charged: what the kind's rules say of the provider's own failures;
    a submit that was turned away is never charged.
    """
    kind = error.kind or kind_of(reply.status, own_shape=error.ours)
    if reply.status < 500:
        charged = False
    elif kind is FaultKind.PROXY:
        charged = None  # what has answered does not know what became of it
    return Fault(
        kind,
        said(error.message, f"The provider answered with status {reply.status}."),
        status=reply.status,
        code=error.code[:100],
        retry_after_s=retry_after_s if retry_after_s is not None else retry_after(reply),
        charged=charged,
    )


def kind_of(status: int, *, own_shape: bool) -> FaultKind:
    """own_shape: the body was the provider's own, so that it and nothing before it has answered."""
    if status in _KINDS:
        return _KINDS[status]
    if 300 <= status < 400:
        return FaultKind.UNKNOWN_MODEL  # a wrong address; following it would send the key elsewhere
    if status in _FROM_A_PROXY and not own_shape:
        return FaultKind.PROXY
    return FaultKind.SERVER if status >= 500 else FaultKind.INVALID


def kind_of_text(text: str) -> FaultKind:
    """Of a failed job whose provider gives a text and nothing else."""
    if REFUSAL_WORDS.search(text):
        return FaultKind.REFUSED
    return FaultKind.INVALID if INVALID_WORDS.search(text) else FaultKind.SERVER


def malformed(reply: Reply, wanted: str) -> Fault:
    """A success that does not hold what it must."""
    message = f"The provider's answer ({reply.status}) holds no {wanted}."
    return Fault(FaultKind.MALFORMED, message, status=reply.status)


def unknown_job() -> Fault:
    """Of a poll that was answered with 404."""
    return Fault(FaultKind.UNKNOWN_JOB, "The provider does not know the job any more.", 404)


def retry_after(reply: Reply) -> float | None:
    """Seconds, from a number or a date (RFC 9110, section 10.2.3); None when it is neither."""
    text = reply.headers.get("retry-after", "").strip()
    if not text:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def is_id(number: object) -> TypeGuard[str]:
    """Whether a provider's name of a job can stand in a path as one step."""
    return isinstance(number, str) and _ID.fullmatch(number) is not None


def id_in(body: bytes) -> str | None:
    """The `id` of a webhook's JSON body, which names the job; None when there is none."""
    try:
        members = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    number = members.get("id") if isinstance(members, dict) else None
    return number if is_id(number) else None


def seed_of(value: object) -> int | None:
    """A seed that a provider tells, where it can be one of ours; None when it is anything else."""
    return value if type(value) is int and 0 <= value <= MAX_SEED else None


def said(words: object, otherwise: str) -> str:
    """What a provider said, fit for an error: short and without data URIs. `otherwise` when it said nothing."""
    text = _DATA_URI.sub("data:…", words).strip() if isinstance(words, str) else ""
    return text[:MAX_PROVIDER_WORDS] or otherwise


class LogLines:
    """Which of a job's log lines are new: providers tell all of them with every poll. Thread-safe.

    A very old job's may come twice.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def fresh(self, job: str, lines: Sequence[str]) -> tuple[str, ...]:
        """The lines that were not there the last time."""
        with self._lock:
            known = self._known.pop(job, 0)
            self._known[job] = max(known, len(lines))
            if len(self._known) > _REMEMBERED_JOBS:
                self._known.popitem(last=False)
        return tuple(lines[known:])
