"""Where an edit may go: the values of a loaded routes file, which route fits a request, and which target is asked.

The same choice is made twice: at submit, to decide between our own queue and the gateway's and to refuse what no target
takes before anything is stored; and when the edit's turn has come. It is `plan`, a pure decision from a request and
what is known just now: the breakers' state, the predicted wait and the draw come as values. `routes_file.py` reads the
values from `retouch.toml`. Nothing is sent here.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal, TypeAlias

from retouch.catalog.normalised import ImageSizes
from retouch.catalog.normaliser import Normalise, able
from retouch.catalog.profiles import LOCAL, Sheet
from retouch.edit import EditRequest
from retouch.errors import InvalidRequest, UnknownModel
from retouch.upstreams.upstream import Upstream

if TYPE_CHECKING:
    from retouch.accounts.keys import Account
    from retouch.database import Database


@dataclass(frozen=True, slots=True)
class Target:
    """One place an edit can be made. name: `upstream/model`, as it stands in rows, metrics and errors, or `local`.

    upstream: its name in the file. model: what is asked for there. sheet: None where nothing is owed.
    overflow_after_s: of the local target, go on to the next one when the predicted wait is longer.
    region: of the upstream, as the file names it.
    """

    name: str
    upstream: str = ""
    model: str = ""
    normalise: Normalise | None = None
    sheet: Sheet | None = None
    weight: int = 1
    overflow_after_s: float | None = None
    region: str = ""

    @property
    def local(self) -> bool:
        """Whether it is our own queue."""
        return self.name == LOCAL


LOCAL_TARGET = Target(LOCAL)


@dataclass(frozen=True, slots=True)
class Conditions:
    """When a route fits. keys: names of accounts, as globs. max_pixels: of the size asked for, where one was.

    regions: of a target's upstream; max_price_microusd: of the whole edit, by its target's sheet. These two leave out
    single targets; the others the whole route.
    """

    max_images: int | None = None
    max_pixels: int | None = None
    keys: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    max_price_microusd: int | None = None

    def fit(self, account: str, request: EditRequest) -> bool:
        pixels = (request.size.width or 0) * (request.size.height or 0) or request.size.pixels or 0
        return (
            (self.max_images is None or len(request.images) <= self.max_images)
            and (self.max_pixels is None or pixels <= self.max_pixels)
            and (not self.keys or any(fnmatchcase(account, key) for key in self.keys))
        )

    def cover(self, other: Conditions) -> bool:
        """Whether every request that `other` fits is one that these fit: a route with `other` behind is never reached.

        Not sure of globs that say the same in other words; False then.
        """
        limits = ((self.max_images, other.max_images), (self.max_pixels, other.max_pixels))
        return all(mine is None or (theirs is not None and theirs <= mine) for mine, theirs in limits) and (
            not self.keys or (bool(other.keys) and set(other.keys) <= set(self.keys))
        )

    def fit_target(self, target: Target, request: EditRequest) -> bool:
        if target.local:
            return True
        if self.regions and target.region not in self.regions:
            return False
        if self.max_price_microusd is None or target.sheet is None:
            return True
        pixels = (request.size.width or 1024) * (request.size.height or 1024) * request.num_images
        return target.sheet.of(request.num_images, pixels) <= self.max_price_microusd


@dataclass(frozen=True, slots=True)
class RouteRule:
    """One `[[routes]]` of the file. model: a public id, or a glob. strict: what would be dropped is refused instead."""

    model: str
    targets: tuple[Target, ...]
    when: Conditions = field(default_factory=Conditions)
    policy: Literal["ordered", "weighted"] = "ordered"
    strict: bool = False
    hedge_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """public_url: of this server, for links and webhooks that providers are given; without one they get neither.

    deadline_s: of one edit, from its first attempt. on_unknown: what happens when it stays unknown whether a submit was
    taken. keep_unknown_hold: book what such a submit would have cost, instead of nothing. pay_again: a result that is
    no image may be made again elsewhere. on_missing: whether the rest is asked for when fewer images came than were
    asked for. max_in_flight: edits of this process at all upstreams together.
    """

    public_url: str | None = None
    deadline_s: float = 300.0
    on_unknown: Literal["fail", "repeat"] = "fail"
    keep_unknown_hold: bool = False
    pay_again: bool = False
    on_missing: Literal["complete", "fail"] = "complete"
    max_in_flight: int = 64


@dataclass(frozen=True, slots=True)
class Connection:
    """A provider as one caller may use it. fingerprint: of its key, eight hexadecimal digits; names it in rows.

    own_key: the caller's own; its refusal is the caller's matter. max_in_flight: of this upstream, None for no limit
    of its own.
    """

    upstream: Upstream
    fingerprint: str
    own_key: bool = False
    max_in_flight: int | None = None


Destination: TypeAlias = tuple[Target, Connection]
"""Where an edit is sent, and how."""

Connect: TypeAlias = Callable[[str, str], Connection | None]
"""(name of the upstream, account id) to its connection; None when the caller has stored no key for it."""


@dataclass(frozen=True, slots=True)
class Routes:
    """A loaded file. forced: targets by `upstream/model`, which a request may name; they know no other target."""

    rules: tuple[RouteRule, ...]
    connect: Connect
    settings: GatewaySettings = field(default_factory=GatewaySettings)
    forced: Mapping[str, Target] = field(default_factory=dict)

    def rule_for(self, account: str, request: EditRequest) -> RouteRule | None:
        """The first route that fits; None when none does. account: its name."""
        target = self.forced.get(request.model)
        if target is not None:
            return RouteRule(request.model, (target,))
        for rule in self.rules:
            if fnmatchcase(request.model, rule.model) and rule.when.fit(account, request):
                return rule
        return None

    def leads(self, model: str) -> tuple[bool, bool]:
        """Whether edits of a model may run here, and whether they may go to an upstream."""
        if model in self.forced:
            return False, True
        targets = [target for rule in self.rules if fnmatchcase(model, rule.model) for target in rule.targets]
        return any(target.local for target in targets), any(not target.local for target in targets)

    def sent_to(self, name: str, account_id: str) -> Destination | None:
        """The target of that name, wherever it stands, for what was sent to it earlier; None when it is not led to now.

        Its key may have been changed since, in the file or by its caller.
        """
        targets = [*(target for rule in self.rules for target in rule.targets), *self.forced.values()]
        found = next((target for target in targets if target.name == name), None)
        connection = None if found is None else self.connect(found.upstream, account_id)
        return None if found is None or connection is None else (found, connection)


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
        from retouch.jobs import breakers  # a routes file is checked without a database, so without this

        account_id, name = account
        rule = routes.rule_for(name, request)
        targets = [] if rule is None else [target for target in rule.targets if not target.local]
        connections = {target.name: routes.connect(target.upstream, account_id) for target in targets}
        keys = {(target, each.fingerprint) for target, each in connections.items() if each is not None}
        with database.read() as connection:
            rows = breakers.read(connection, keys).values()
        opened = {
            row.target: row.opened_at.timestamp() for row in rows if row.state(moment) is breakers.BreakerState.OPEN
        }
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
    targets, cut_prompt, refused = able(fitting, request, now.sizes)
    left_out |= refused
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
