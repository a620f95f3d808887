"""Which targets an edit is offered to, and in which order: one pure decision from a request and what is known just now.

It sends nothing, reads no clock and no database; the breakers' state, the predicted wait and the draw come as values.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field

from retouch.catalog.normalised import ImageSizes
from retouch.edit import EditRequest
from retouch.errors import InvalidRequest
from retouch.upstreams.routes import RouteRule, Routes, Target


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a choice depends on besides the request.

    account: name of the caller's account. local_wait_s: until an edit accepted now would be done here, None when no
    worker of ours is alive. open_since: by target whose breaker is open for the key that would be used, when it opened;
    any clock. without_key: upstreams for which this caller has stored no key. sizes: of the inputs, as far as known.
    """

    account: str
    local_wait_s: float | None = None
    open_since: Mapping[str, float] = field(default_factory=dict)
    without_key: Set[str] = frozenset()
    sizes: ImageSizes = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """The targets to ask, first one first. left_out: the others of the route, by name, with the reason.

    cut_prompt: no target reads a prompt of this length, so its end is left out, and the answer says so; `normalise` is
    called with it.
    """

    rule: RouteRule
    targets: tuple[Target, ...]
    left_out: Mapping[str, str]
    cut_prompt: bool = False

    def may_move(self) -> bool:
        """Whether there is a second target at all."""
        return len(self.targets) > 1


def plan(
    routes: Routes, request: EditRequest, now: Circumstances, draw: Callable[[], float] = random.random
) -> Plan | None:
    """The targets of the first route that fits; None when none does.

    draw: numbers from 0 up to 1, for weights. A target that cannot take the request is left out; when none can, the
    InvalidRequest of the first one is raised, which names our field. With every breaker open the target that has been
    left alone for the longest is tried.
    """
    rule = routes.rule_for(now.account, request)
    if rule is None:
        return None
    left_out: dict[str, str] = {}
    fitting = [target for target in rule.targets if _fits(target, rule, request, now, left_out)]
    able, cut_prompt = _able(fitting, request, now.sizes, left_out)
    ordered = _by_weight(able, draw) if rule.policy == "weighted" else able
    ordered = _overflowing_last(ordered, now.local_wait_s)
    closed = [target for target in ordered if target.name not in now.open_since]
    left_out |= {target.name: "its breaker is open" for target in ordered if target.name in now.open_since}
    if not closed and ordered:
        closed = [min(ordered, key=lambda target: now.open_since[target.name])]
        del left_out[closed[0].name]
    return Plan(rule, tuple(closed), left_out, cut_prompt)


def _fits(target: Target, rule: RouteRule, request: EditRequest, now: Circumstances, left_out: dict[str, str]) -> bool:
    if not rule.when.fit_target(target, request):
        left_out[target.name] = "its region or its price is not what the route allows"
    elif target.upstream in now.without_key:
        left_out[target.name] = "this account has stored no key for it"
    return target.name not in left_out


def _able(
    targets: Iterable[Target], request: EditRequest, sizes: ImageSizes, left_out: dict[str, str]
) -> tuple[list[Target], bool]:
    """Those that take the request, as a whole if any does, else with the end of its prompt left out."""
    refused: dict[Target, InvalidRequest] = {}
    for cut_prompt in (False, True):
        able = []
        for target in targets:
            try:
                if target.normalise is not None:
                    target.normalise(request, sizes, cut_prompt=cut_prompt)
                able.append(target)
            except InvalidRequest as error:
                refused.setdefault(target, error)
        if able:
            left_out |= {t.name: error.message for t, error in refused.items() if t not in able}
            return able, cut_prompt
    if refused:
        raise next(iter(refused.values()))
    return [], False


def _by_weight(targets: list[Target], draw: Callable[[], float]) -> list[Target]:
    """Each place is given by weight among those that are left: the smallest of exponential variables with those rates.

    Source: Efraimidis and Spirakis, Weighted random sampling with a reservoir (2006).
    """
    keys = {target: -math.log(1.0 - draw()) / target.weight for target in targets if target.weight > 0}
    return sorted(keys, key=keys.__getitem__)


def _overflowing_last(targets: list[Target], local_wait_s: float | None) -> list[Target]:
    """Our own queue goes behind the others when it would take too long, or when nothing serves it."""
    wait = math.inf if local_wait_s is None else local_wait_s

    def overflows(target: Target) -> bool:
        return target.local and target.overflow_after_s is not None and wait > target.overflow_after_s

    return sorted(targets, key=overflows)
