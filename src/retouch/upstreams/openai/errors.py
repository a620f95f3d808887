"""What errors in OpenAI's shape mean: the code first, for one status carries a quota, a refusal and a rate alike."""

from __future__ import annotations

from typing import Any, Final

from retouch.upstreams.replies import ProviderError, fault_of
from retouch.upstreams.transport import Reply
from retouch.upstreams.upstream import Fault, FaultKind

_BY_CODE: Final = {
    "content_policy_violation": FaultKind.REFUSED,
    "moderation_blocked": FaultKind.REFUSED,
    "insufficient_quota": FaultKind.QUOTA,
    "insufficient_balance": FaultKind.QUOTA,
    "billing_hard_limit_reached": FaultKind.QUOTA,
    "invalid_api_key": FaultKind.AUTHENTICATION,
    "account_deactivated": FaultKind.AUTHENTICATION,
    "permission_denied": FaultKind.AUTHENTICATION,
    "model_not_found": FaultKind.UNKNOWN_MODEL,
    "model_disabled": FaultKind.UNKNOWN_MODEL,
    "rate_limit_exceeded": FaultKind.THROTTLED,
    "queue_full": FaultKind.THROTTLED,
    "generation_timeout": FaultKind.TIMED_OUT,
    "upstream_outcome_unknown": FaultKind.NO_ANSWER,  # another Retouch that does not know it either
}
_BY_TYPE: Final = {"insufficient_quota": FaultKind.QUOTA, "billing_error": FaultKind.QUOTA}


def fault_of_answer(reply: Reply) -> Fault:
    """Of an answer that is no success. What the provider's own 5xx cost is not told anywhere."""
    return fault_of(reply, error_of(reply.value), charged=None)


def fault_of_event(event: Any) -> Fault:
    """Of an `error` event, after the head of the answer had already said 200."""
    error = error_of(event)
    return Fault(
        error.kind or FaultKind.SERVER, error.message or "The provider's stream ended with an error.", code=error.code
    )


def error_of(value: Any) -> ProviderError:
    """The members of `error`; or `detail`, as servers built on FastAPI say it."""
    members = value if isinstance(value, dict) else {}
    error = members.get("error")
    if isinstance(error, str):
        return ProviderError(error)
    if not isinstance(error, dict):
        detail = members.get("detail")
        first = detail[0] if isinstance(detail, list) and detail and isinstance(detail[0], dict) else {}
        return ProviderError(detail if isinstance(detail, str) else str(first.get("msg", "")), ours="detail" in members)
    code = str(error.get("code") or "")
    kind = _BY_CODE.get(code.lower()) or _BY_TYPE.get(str(error.get("type") or "").lower())
    return ProviderError(str(error.get("message") or ""), code or str(error.get("type") or ""), kind)
