"""Where an edit may go: the values of a loaded routes file, and which route fits a request.

Values and a search. `routes_file.py` reads them from `retouch.toml`; which of a route's targets is asked, and when
another one is, is decided in `choice.py` and `edit_run.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, Protocol, TypeAlias

from retouch.catalog.normalised import ImageSizes, Normalised
from retouch.catalog.profiles import LOCAL, Sheet
from retouch.edit import EditRequest
from retouch.upstreams.upstream import Upstream


class Normalise(Protocol):
    """A request as one target is asked for it. cut_prompt: leave out the end of one that is too long there.

    Raises InvalidRequest naming the field when the target cannot take it or, of a strict request, would drop something.
    """

    def __call__(self, request: EditRequest, sizes: ImageSizes = ..., *, cut_prompt: bool = ...) -> Normalised: ...


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

    def target(self, name: str) -> Target | None:
        """The target of that name, wherever it stands; for what was sent to it earlier."""
        named = (target for rule in self.rules for target in rule.targets if target.name == name)
        return next(named, None) or next((each for each in self.forced.values() if each.name == name), None)
