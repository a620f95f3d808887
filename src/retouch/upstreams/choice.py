"""Where an edit goes: here or to the gateway when it is submitted, and which targets are asked when its turn has come.

Both by `plan`, a pure decision from a request and what is known just now: the breakers' state, the predicted wait and
the draw come as values. At submit, what no target takes is refused, before anything is stored. Nothing is sent here.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime

from retouch.accounts.keys import Account
from retouch.catalog.normalised import ImageSizes
from retouch.database import Database
from retouch.edit import EditRequest
from retouch.errors import InvalidRequest, UnknownModel
from retouch.jobs import breakers
from retouch.jobs.breakers import BreakerState
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

    @classmethod
    def now(  # noqa: PLR0917 - what a choice depends on
        cls,
        routes: Routes,
        database: Database,
        account: tuple[str, str],
        request: EditRequest,
        sizes: ImageSizes,
        moment: datetime,
        local_wait_s: float | None = None,
    ) -> Circumstances:
        """What is known just now of the targets of the route that fits. account: its id and its name."""
        account_id, name = account
        rule = routes.rule_for(name, request)
        targets = [] if rule is None else [target for target in rule.targets if not target.local]
        connections = {target.name: routes.connect(target.upstream, account_id) for target in targets}
        keys = {(target, each.fingerprint) for target, each in connections.items() if each is not None}
        with database.read() as connection:
            rows = breakers.read(connection, keys).values()
        opened = {row.target: row.opened_at.timestamp() for row in rows if row.state(moment) is BreakerState.OPEN}
        without_key = {target.upstream for target in targets if connections[target.name] is None}
        return cls(name, local_wait_s, opened, without_key, sizes)


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
    for target in rule.targets:
        if not rule.when.fit_target(target, request):
            left_out[target.name] = "its region or its price is not what the route allows"
        elif target.upstream in now.without_key:
            left_out[target.name] = "this account has stored no key for it"
    fitting = [target for target in rule.targets if target.name not in left_out]
    targets, cut_prompt = _able(fitting, request, now.sizes, left_out)
    if rule.policy == "weighted":
        # Each place is given by weight among those that are left: the smallest of exponential variables with those
        # rates (Efraimidis and Spirakis, Weighted random sampling with a reservoir, 2006).
        order = {target: -math.log(1.0 - draw()) / target.weight for target in targets if target.weight > 0}
        targets = sorted(order, key=order.__getitem__)
    wait_s = math.inf if now.local_wait_s is None else now.local_wait_s

    def overflows(target: Target) -> bool:
        """Our own queue goes behind the others when it would take too long, or when nothing serves it."""
        return target.local and target.overflow_after_s is not None and wait_s > target.overflow_after_s

    targets = sorted(targets, key=overflows)
    closed = [target for target in targets if target.name not in now.open_since]
    left_out |= {target.name: "its breaker is open" for target in targets if target.name in now.open_since}
    if not closed and targets:
        closed = [min(targets, key=lambda target: now.open_since[target.name])]
        del left_out[closed[0].name]
    return Plan(rule, tuple(closed), left_out, cut_prompt)


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


class Dispatcher:
    """`service.Dispatch` by the routes file as it is at the moment: whether an edit goes to the gateway."""

    def __init__(
        self,
        routes: Callable[[], Routes],
        database: Database,
        sizes_of: Callable[[EditRequest], ImageSizes],
        clock: Callable[[], datetime],
    ) -> None:
        self._routes = routes
        self._database = database
        self._sizes_of = sizes_of
        self._clock = clock

    def __call__(self, account: Account, request: EditRequest, local_wait_s: Callable[[], float] | None) -> bool:
        wait_s, here = None, None
        if local_wait_s is not None:
            try:
                wait_s = local_wait_s()
            except InvalidRequest as error:  # not here; perhaps elsewhere
                here = error
        routes, sizes = self._routes(), self._sizes_of(request)
        if not any(routes.leads(request.model)):
            raise UnknownModel(f"No route of this server is for the model '{request.model}'.", field="model")
        known_wait_s = None if wait_s == math.inf else wait_s
        owner = (account.id, account.name)
        now = Circumstances.now(routes, self._database, owner, request, sizes, self._clock(), known_wait_s)
        chosen = plan(routes, request, now)
        if chosen is None:
            raise InvalidRequest(f"No route of '{request.model}' fits this edit.", field="model")
        targets = [target for target in chosen.targets if not (target.local and (here or local_wait_s is None))]
        if not targets:
            if here is not None:
                raise here
            reasons = " ".join(f"{name}: {reason}" for name, reason in chosen.left_out.items())
            raise InvalidRequest(f"No target of '{request.model}' takes this edit. {reasons}".strip(), field="model")
        # Which upstream it will be is decided when its turn has come, with the same rules.
        return not targets[0].local
