"""What may be done after a fault, without paying twice: one table, by what went wrong and what is true of the provider.

    S  ask the same target again       N  ask the next target
    L  look the submit up, then as the operator chose for an unknown outcome
    U  as the operator chose for an unknown outcome, at once: nothing can be looked up
    F  fail, no other is asked         $  money may be owed
    !  nothing sent with this key can succeed: leave the target alone at once
    *  tell the operator

No provider is named here: the columns are made of `Traits`, and what only one provider's answers tell (whether it had
taken a submit it then failed, whether it charges) is in the fault. A poll that tells nothing is no fault: the job goes
on, and is asked for again. Why each cell is as it is: docs/explanation/gateway.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from retouch.errors import (
    ContentRefused,
    GenerationTimeout,
    InvalidRequest,
    PermissionDenied,
    RetouchError,
    UpstreamBadImage,
    UpstreamOutcomeUnknown,
    UpstreamResultLost,
)
from retouch.upstreams.upstream import Fault, FaultKind, Traits


class Column(StrEnum):
    """Kinds of targets, as far as repeating is concerned."""

    NAMED = "named"  #: paid, and every submit gets an id: what was taken can be asked for
    SYNC = "sync"  #: paid, and the answer is the image: what was taken and not answered is lost
    FREE = "free"  #: nothing is paid
    IDEMPOTENT = "idempotent"  #: paid, and the same submit again is the same job


class Phase(StrEnum):
    SUBMIT = "submit"
    POLL = "poll"  #: the provider had taken it, and says that it has ended
    RESULT = "result"  #: it has made the images, and they cannot be had or used


@dataclass(frozen=True, slots=True)
class Rule:
    """A cell. codes: of S, N, L, U, F, in the order they are tried."""

    codes: str
    owed: bool = False
    opens: bool = False
    alarm: bool = False

    def has(self, code: str) -> bool:
        return code in self.codes


@dataclass(frozen=True, slots=True)
class _Row:
    """Cells of the four columns; what is not given is as `named`.

    charged, not_charged: of paid targets, where the fault says whether something is owed. own_key: where the key is the
    caller's.
    """

    named: str
    sync: str | None = None
    free: str | None = None
    idempotent: str | None = None
    charged: str | None = None
    not_charged: str | None = None
    own_key: str | None = None


_OURS = _Row("F")  # the caller's own fault, or a refusal: another provider must not be asked

RULES: Mapping[Phase, Mapping[FaultKind, _Row]] = {
    Phase.SUBMIT: {
        FaultKind.UNREACHABLE: _Row("SN"),
        FaultKind.TLS: _Row("N*"),
        FaultKind.INTERRUPTED: _Row("SN"),
        FaultKind.NO_ANSWER: _Row("L$", sync="U$", free="SN", idempotent="SU$"),
        FaultKind.MALFORMED: _Row("L$", sync="F$", free="SN", idempotent="SU$"),
        FaultKind.THROTTLED: _Row("SN"),
        FaultKind.QUOTA: _Row("N!*", own_key="F"),
        FaultKind.AUTHENTICATION: _Row("N!*", own_key="F"),
        FaultKind.UNKNOWN_MODEL: _Row("N!*", own_key="F"),
        FaultKind.SERVER: _Row("N$", free="SN", idempotent="SN", not_charged="SN"),
        FaultKind.PROXY: _Row("L$", sync="U$", free="SN", idempotent="SU$", not_charged="SN"),
        FaultKind.REFUSED: _OURS,
        FaultKind.INVALID: _OURS,
        FaultKind.CANCELLED: _Row("F$", free="N", not_charged="N"),
        FaultKind.TIMED_OUT: _Row("F$", free="N", not_charged="N"),
        FaultKind.LOST: _Row("F$", free="SN"),
        FaultKind.BAD_IMAGE: _Row("F$", free="SN"),
        FaultKind.UNKNOWN_JOB: _Row("L$", sync="U$", free="SN", idempotent="SN"),
    },
    Phase.POLL: {
        FaultKind.UNREACHABLE: _Row("N$", free="SN"),
        FaultKind.TLS: _Row("N$*"),
        FaultKind.INTERRUPTED: _Row("N$", free="SN"),
        FaultKind.NO_ANSWER: _Row("N$", free="SN"),
        FaultKind.MALFORMED: _Row("N$", free="SN"),
        FaultKind.THROTTLED: _Row("N$", free="SN"),
        FaultKind.QUOTA: _Row("N!*", own_key="F"),
        FaultKind.AUTHENTICATION: _Row("N!*", own_key="F"),
        FaultKind.UNKNOWN_MODEL: _Row("N!*", own_key="F"),
        FaultKind.SERVER: _Row("N$", free="SN", not_charged="N"),
        FaultKind.PROXY: _Row("N$", free="SN", not_charged="N"),
        FaultKind.REFUSED: _OURS,
        FaultKind.INVALID: _OURS,
        FaultKind.CANCELLED: _Row("N$", free="N", charged="F$"),
        FaultKind.TIMED_OUT: _Row("F$", free="N", not_charged="N"),
        FaultKind.LOST: _Row("F$", free="SN"),
        FaultKind.BAD_IMAGE: _Row("F$", free="SN"),
        FaultKind.UNKNOWN_JOB: _Row("F$", free="SN", idempotent="SN"),
    },
    Phase.RESULT: {
        FaultKind.LOST: _Row("F$", free="SN", idempotent="F"),
        FaultKind.BAD_IMAGE: _Row("F$", free="SN", idempotent="F"),
        FaultKind.MALFORMED: _Row("N$", sync="F$", free="SN"),  # it says that it is done, and has no image
    },
}

COUNTS = frozenset(FaultKind) - {FaultKind.REFUSED, FaultKind.INVALID}
"""Faults that say something about the target. What the caller or our own store did wrong never counts."""

_FAILURES: Mapping[FaultKind, type[RetouchError]] = dict.fromkeys(FaultKind, UpstreamOutcomeUnknown) | {
    FaultKind.INVALID: InvalidRequest,
    FaultKind.AUTHENTICATION: PermissionDenied,
    FaultKind.QUOTA: PermissionDenied,
    FaultKind.UNKNOWN_MODEL: PermissionDenied,
    FaultKind.LOST: UpstreamResultLost,
    FaultKind.BAD_IMAGE: UpstreamBadImage,
    FaultKind.TIMED_OUT: GenerationTimeout,
    FaultKind.CANCELLED: GenerationTimeout,
}
"""What a caller reads of a fault after which no other target is asked."""


def column_of(traits: Traits) -> Column:
    if not traits.paid:
        return Column.FREE
    if traits.idempotent:
        return Column.IDEMPOTENT
    return Column.NAMED if traits.named else Column.SYNC


def rule_of(phase: Phase, fault: Fault, traits: Traits, *, own_key: bool = False, pay_again: bool = False) -> Rule:
    """The cell for a fault. own_key: it was sent with the caller's own key. pay_again: bad images may be made anew."""
    row = RULES[phase].get(fault.kind) or RULES[Phase.POLL][fault.kind]
    column = column_of(traits)
    cell = {Column.SYNC: row.sync, Column.FREE: row.free, Column.IDEMPOTENT: row.idempotent}.get(column) or row.named
    if column in (Column.NAMED, Column.SYNC):
        charged = fault.charged
        if charged is None and fault.kind is FaultKind.SERVER:
            charged = traits.server_errors_charged
        if charged is not None:
            tried_there = fault.kind is FaultKind.SERVER and traits.repeats_server_errors
            by_charge = row.charged if charged else "N" if tried_there else row.not_charged
            cell = by_charge or cell
    if own_key and row.own_key is not None:
        cell = row.own_key
    if pay_again and fault.kind is FaultKind.BAD_IMAGE:
        cell = cell.replace("F", "N")
    return Rule("".join(c for c in cell if c in "SNLUF"), "$" in cell, "!" in cell, "*" in cell)


def failure_of(fault: Fault) -> RetouchError:
    """What the caller is told after F."""
    if fault.kind is FaultKind.REFUSED:
        return ContentRefused(fault.message, stage="provider")
    return _FAILURES[fault.kind](fault.message)
