"""What fal's errors mean: its `type` and `error_type` words first, then headers, then the status."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from retouch.upstreams.replies import ProviderError, fault_of
from retouch.upstreams.transport import Reply
from retouch.upstreams.upstream import Fault, FaultKind

REQUEST_ID_HEADER: Final = "x-fal-request-id"
_TIMEOUT_HEADER: Final = "x-fal-request-timeout-type"

_BY_TYPE: Final = {
    "content_policy_violation": FaultKind.REFUSED,
    "concurrent_requests_limit": FaultKind.THROTTLED,
    "client_cancelled": FaultKind.CANCELLED,
    "client_disconnected": FaultKind.CANCELLED,
    "request_timeout": FaultKind.TIMED_OUT,
    "startup_timeout": FaultKind.TIMED_OUT,
    "generation_timeout": FaultKind.TIMED_OUT,
    "internal_server_error": FaultKind.SERVER,
    "internal_error": FaultKind.SERVER,
    "downstream_service_error": FaultKind.SERVER,
    "downstream_service_unavailable": FaultKind.SERVER,
    "no_media_generated": FaultKind.SERVER,
}


def fault_of_submit(reply: Reply) -> Fault:
    """Of an answer to a submit that is no success. fal's own 5xx are not billed."""
    error = error_of(reply)
    fault = fault_of(reply, error, charged=False)
    if fault.kind is not FaultKind.PROXY:
        return fault
    if REQUEST_ID_HEADER in reply.headers:
        # The queue has seen the request, and what it said of it was lost on the way back.
        return replace(fault, kind=FaultKind.MALFORMED, charged=None)
    return replace(fault, charged=False)


def fault_of_result(reply: Reply) -> Fault:
    """Of a job that ended without a result. An invalid input may be on the bill, if GPU time was spent on it."""
    fault = fault_of(reply, error_of(reply), charged=False)
    spent = fault.kind in (FaultKind.INVALID, FaultKind.REFUSED)
    return replace(fault, charged=None if spent else False)


def error_of(reply: Reply) -> ProviderError:
    """What the body says, in any of its three shapes (a list of details, an error type, a plain sentence)."""
    members = reply.members
    detail = members.get("detail")
    first = detail[0] if isinstance(detail, list) and detail and isinstance(detail[0], dict) else {}
    message = detail if isinstance(detail, str) else str(first.get("msg") or members.get("message") or "")
    steps = first.get("loc")
    place = ".".join(str(step) for step in steps if step != "body") if isinstance(steps, list) else ""
    code = str(first.get("type") or members.get("error_type") or reply.headers.get("x-fal-error-type", ""))
    kind = _BY_TYPE.get(code)
    if kind is None and code.startswith("runner_"):
        kind = FaultKind.SERVER
    elif kind is None and reply.status == 499:
        kind = FaultKind.CANCELLED
    elif kind is None and reply.status == 504 and _TIMEOUT_HEADER in reply.headers:
        kind = FaultKind.TIMED_OUT
    ours = "detail" in members or "error_type" in members
    return ProviderError(f"{place}: {message}" if place and message else message, code, kind, ours)
