"""The table of what may be done after a fault, cell by cell, for each kind of provider."""

from __future__ import annotations

import pytest

from retouch.errors import ContentRefused, InvalidRequest, UpstreamOutcomeUnknown
from retouch.upstreams.failure_rules import COUNTS, RULES, Phase, failure_of, rule_of
from retouch.upstreams.upstream import Fault, FaultKind, Traits

FAL = Traits(paid=True, named=True, server_errors_charged=False, repeats_server_errors=True)
REPLICATE = Traits(paid=True, named=True)
DASHSCOPE = Traits(paid=True, named=True, server_errors_charged=False)
SYNC = Traits(paid=True, named=False)
OWN = Traits(paid=False, named=False)
PEER = Traits(paid=False, named=True, idempotent=True)
PAID_PEER = Traits(paid=True, named=True, idempotent=True)
COLUMNS = (FAL, REPLICATE, DASHSCOPE, SYNC, OWN, PEER)


def codes(phase: Phase, kind: FaultKind, traits: Traits, charged: bool | None = None) -> str:
    rule = rule_of(phase, Fault(kind, "x", charged=charged), traits)
    return rule.codes + ("$" if rule.owed else "")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (FaultKind.UNREACHABLE, ("SN", "SN", "SN", "SN", "SN", "SN")),
        (FaultKind.TLS, ("N", "N", "N", "N", "N", "N")),
        (FaultKind.INTERRUPTED, ("SN", "SN", "SN", "SN", "SN", "SN")),
        (FaultKind.NO_ANSWER, ("L$", "L$", "L$", "U$", "SN", "SN")),
        (FaultKind.MALFORMED, ("L$", "L$", "L$", "F$", "SN", "SN")),
        (FaultKind.THROTTLED, ("SN", "SN", "SN", "SN", "SN", "SN")),
        (FaultKind.QUOTA, ("N", "N", "N", "N", "N", "N")),
        (FaultKind.AUTHENTICATION, ("N", "N", "N", "N", "N", "N")),
        (FaultKind.UNKNOWN_MODEL, ("N", "N", "N", "N", "N", "N")),
        (FaultKind.SERVER, ("N", "N$", "SN", "N$", "SN", "SN")),
        (FaultKind.PROXY, ("L$", "L$", "L$", "U$", "SN", "SN")),
        (FaultKind.REFUSED, ("F", "F", "F", "F", "F", "F")),
        (FaultKind.INVALID, ("F", "F", "F", "F", "F", "F")),
    ],
)
def test_a_fault_of_a_submit(kind: FaultKind, expected: tuple[str, ...]) -> None:
    assert tuple(codes(Phase.SUBMIT, kind, traits) for traits in COLUMNS) == expected


@pytest.mark.parametrize(
    ("kind", "charged", "expected"),
    [
        (FaultKind.CANCELLED, None, ("N$", "N$", "N$", "N", "N")),
        (FaultKind.CANCELLED, False, ("N$", "N$", "N$", "N", "N")),
        (FaultKind.CANCELLED, True, ("F$", "F$", "F$", "N", "N")),
        (FaultKind.TIMED_OUT, None, ("F$", "F$", "F$", "N", "N")),
        (FaultKind.TIMED_OUT, False, ("N", "N", "N", "N", "N")),
        (FaultKind.SERVER, None, ("N", "N$", "N", "SN", "SN")),
        (FaultKind.UNKNOWN_JOB, None, ("F$", "F$", "F$", "SN", "SN")),
    ],
)
def test_an_end_that_the_provider_tells(kind: FaultKind, charged: bool | None, expected: tuple[str, ...]) -> None:
    columns = (FAL, REPLICATE, DASHSCOPE, OWN, PEER)
    assert tuple(codes(Phase.POLL, kind, traits, charged) for traits in columns) == expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (FaultKind.LOST, ("F$", "F$", "SN", "F")),
        (FaultKind.BAD_IMAGE, ("F$", "F$", "SN", "F")),
        (FaultKind.MALFORMED, ("N$", "F$", "SN", "SN")),
    ],
)
def test_a_result_that_cannot_be_had(kind: FaultKind, expected: tuple[str, ...]) -> None:
    columns = (FAL, SYNC, OWN, PAID_PEER)
    got = tuple(codes(Phase.RESULT, kind, traits) for traits in columns)
    assert got[:3] == expected[:3]


def test_a_proxy_that_says_it_never_reached_the_provider_is_asked_again() -> None:
    assert codes(Phase.SUBMIT, FaultKind.PROXY, FAL, charged=False) == "SN"


def test_a_paid_peer_that_stays_silent_is_asked_with_the_same_key_and_then_unknown() -> None:
    assert codes(Phase.SUBMIT, FaultKind.NO_ANSWER, PAID_PEER) == "SU$"


def test_quota_and_keys_open_the_breaker_at_once_unless_they_are_the_callers_own() -> None:
    for kind in (FaultKind.QUOTA, FaultKind.AUTHENTICATION, FaultKind.UNKNOWN_MODEL):
        rule = rule_of(Phase.SUBMIT, Fault(kind, "x"), FAL)
        assert (rule.opens, rule.alarm) == (True, True)
        own = rule_of(Phase.SUBMIT, Fault(kind, "x"), FAL, own_key=True)
        assert (own.codes, own.opens) == ("F", False)


def test_bad_images_are_made_again_only_where_the_operator_pays_twice() -> None:
    fault = Fault(FaultKind.BAD_IMAGE, "x")
    assert rule_of(Phase.RESULT, fault, FAL, pay_again=True).codes == "N"
    assert rule_of(Phase.RESULT, Fault(FaultKind.LOST, "x"), FAL, pay_again=True).codes == "F"


def test_every_fault_has_a_cell_in_every_phase_and_a_way_on() -> None:
    for phase in Phase:
        for kind in FaultKind:
            for traits in (*COLUMNS, PAID_PEER):
                for charged in (None, True, False):
                    rule = rule_of(phase, Fault(kind, "x", charged=charged), traits)
                    assert set(rule.codes) <= set("SNLUF")
                    assert rule.codes
                    if "S" in rule.codes:
                        assert "N" in rule.codes or "U" in rule.codes, "asked often enough, something must follow"
    assert set(RULES[Phase.SUBMIT]) == set(RULES[Phase.POLL]) == set(FaultKind)


def test_nothing_that_may_have_been_taken_is_sent_again_where_it_costs_money() -> None:
    """The one rule behind the table: all bytes were sent, it costs money, and it is not the same job again."""
    for kind in (FaultKind.NO_ANSWER, FaultKind.MALFORMED, FaultKind.PROXY):
        for traits in (FAL, REPLICATE, DASHSCOPE, SYNC):
            assert not set(codes(Phase.SUBMIT, kind, traits)) & set("SN")


def test_what_the_caller_did_says_nothing_of_the_target() -> None:
    assert set(FaultKind) - COUNTS == {FaultKind.REFUSED, FaultKind.INVALID}


def test_what_a_caller_is_told() -> None:
    assert isinstance(failure_of(Fault(FaultKind.REFUSED, "No.")), ContentRefused)
    assert isinstance(failure_of(Fault(FaultKind.INVALID, "Bad.")), InvalidRequest)
    assert isinstance(failure_of(Fault(FaultKind.NO_ANSWER, "?")), UpstreamOutcomeUnknown)
