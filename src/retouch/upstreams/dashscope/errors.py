"""What DashScope's errors mean. The code decides and not the status: a refusal has come as 429, an error as 200."""

from __future__ import annotations

from typing import Any, Final

from retouch.upstreams.replies import ProviderError, fault_of, said
from retouch.upstreams.transport import Reply
from retouch.upstreams.upstream import Fault, FaultKind

RATE_RECOVERS_S: Final = 60.0
"""No Retry-After is documented; the pages say about a minute."""

_BY_CODE: Final = {
    "datainspectionfailed": FaultKind.REFUSED,
    "data_inspection_failed": FaultKind.REFUSED,
    "internalerror.algo.datainspectionfailed": FaultKind.REFUSED,
    "ipinfringementsuspect": FaultKind.REFUSED,
    "throttling.allocationquota": FaultKind.QUOTA,
    "allocationquota": FaultKind.QUOTA,
    "insufficient_quota": FaultKind.QUOTA,
    "arrearage": FaultKind.QUOTA,
    "throttling": FaultKind.THROTTLED,
    "limitrequests": FaultKind.THROTTLED,
    "invalidapikey": FaultKind.AUTHENTICATION,
    "accessdenied": FaultKind.AUTHENTICATION,
    "model.accessdenied": FaultKind.AUTHENTICATION,
    "workspace.accessdenied": FaultKind.AUTHENTICATION,
    "modelnotfound": FaultKind.UNKNOWN_MODEL,
    "model_not_found": FaultKind.UNKNOWN_MODEL,
    "invalidparameter": FaultKind.INVALID,
    "inputdownloadfailed": FaultKind.INVALID,
    "invalidurl": FaultKind.INVALID,
    "internalerror": FaultKind.SERVER,
    "requesttimeout": FaultKind.SERVER,
    "systemerror": FaultKind.SERVER,
    "modelservicefailed": FaultKind.SERVER,
}
"""By code in small letters; a code that is not here is looked up by what stands before its last dot."""


def kind_of_code(code: str) -> FaultKind | None:
    word = code.lower()
    while word:
        if word in _BY_CODE:
            return _BY_CODE[word]
        word = word.rpartition(".")[0]
    return None


def error_of(value: Any) -> ProviderError:
    """`code` and `message`, as they stand in an answer or in a task's `output`."""
    members = value if isinstance(value, dict) else {}
    code, message = str(members.get("code") or ""), str(members.get("message") or "")
    return ProviderError(message, code, kind_of_code(code), ours=bool(code))


def fault_of_answer(reply: Reply) -> Fault:
    """Of an answer that is no success, or that holds an error although it says 200. Failures are not charged."""
    error = error_of(reply.value)
    if reply.ok:
        kind = error.kind or FaultKind.SERVER
        return Fault(kind, said(error.message, "The provider failed without a word."), code=error.code, charged=False)
    pause_s = RATE_RECOVERS_S if error.kind is FaultKind.THROTTLED and "retry-after" not in reply.headers else None
    return fault_of(reply, error, charged=False, retry_after_s=pause_s)


def fault_of_task(output: Any) -> Fault:
    """Of a task that ended in FAILED."""
    error = error_of(output)
    words = said(error.message, "The provider's task failed without a word.")
    return Fault(error.kind or FaultKind.SERVER, words, code=error.code, charged=False)
