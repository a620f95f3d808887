"""Reads the `[[routes]]` of a routes file: for which models and requests each is, and which targets it leads to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from retouch.catalog.normaliser import Normaliser
from retouch.catalog.profiles import LOCAL, hosted
from retouch.catalog.routing import MODELS, Model
from retouch.upstreams.routes import Conditions, RouteRule, Target
from retouch.upstreams.toml_table import Problems, Table, near
from retouch.upstreams.upstream_settings import ServedModel, UpstreamSettings


@dataclass(frozen=True, slots=True)
class _WrittenTarget:
    """A member of `targets`, before it is known for which model it is. upstream: None for our own queue."""

    table: Table
    upstream: UpstreamSettings | None
    model: str | None
    weight: int
    overflow_after_s: float | None


class RuleReader:
    """upstreams: those that are right, by name; broken: names of the others, of which enough has been told."""

    def __init__(self, problems: Problems, upstreams: Mapping[str, UpstreamSettings], *, broken: Set[str]) -> None:
        self._problems = problems
        self._upstreams = upstreams
        self._broken = broken

    def rules(self, table: Table) -> Iterator[RouteRule]:
        """One rule for each of our models that a route is for. One that leads nowhere is a mistake."""
        before = len(self._problems.found)
        ids = self._model_ids(table)
        when = table.table("when")
        conditions = _conditions(when) if when else Conditions()
        weighted = table.word("policy", ("ordered", "weighted"), "ordered") == "weighted"
        strict = table.switch("strict")
        hedge_after_s = table.number("hedge_after_s", least=0.1)
        options = self._options(table)
        if not table.has("targets"):
            self._problems.add(table.place, "the route has no 'targets'.")
        written = [self._target(each, weighted=weighted) for each in table.tables("targets")]
        table.end()
        leads = False
        for model_id in ids:
            targets = []
            for each in written:
                if each is not None and each.upstream is None:
                    targets.append(Target(LOCAL, weight=each.weight, overflow_after_s=each.overflow_after_s))
                elif each is not None:
                    targets += self._hosted(each, model_id, options, strict=strict, wide=len(ids) > 1)
            if targets:
                leads = True
                rule = RouteRule(model_id, tuple(targets), conditions, strict=strict, hedge_after_s=hedge_after_s)
                yield replace(rule, policy="weighted") if weighted else rule
        if not leads and all(each is not None for each in written) and len(self._problems.found) == before:
            reason = "none of its targets has a model like ours; name their 'model', or set 'models' at the upstream."
            table.problem("targets", reason if written else "'targets' is empty, so the route leads nowhere.")

    def _model_ids(self, table: Table) -> list[str]:
        pattern = table.text("model")
        if pattern is None:
            self._problems.add(table.place, "the route has no 'model'; \"*\" is all of them.")
            return []
        named = public_model(pattern)
        ids = [named.id] if named else [model.id for model in MODELS if fnmatchcase(model.id, pattern)]
        if not ids:
            hint = near(pattern, [model.id for model in MODELS])
            table.problem("model", f"no model of ours is called '{pattern[:60]}'; {hint}")
        return ids

    def _options(self, table: Table) -> dict[str, Mapping[str, Any]]:
        """What is passed on as it is, by kind of upstream."""
        made: dict[str, Mapping[str, Any]] = {}
        options = table.table("upstream_options")
        for kind, value in options.members() if options else ():
            if kind in hosted().kinds and isinstance(value, dict):
                made[kind] = value
            else:
                kinds = ", ".join(hosted().kinds)
                reason = f"'{kind[:60]}' must be a table named for a kind of upstream; there are {kinds}."
                self._problems.add((*table.place, "upstream_options", kind), reason)
        return made

    def _target(self, table: Table, *, weighted: bool) -> _WrittenTarget | None:
        to, model = table.text("to"), table.text("model")
        weight = table.count("weight", 1, least=0)
        overflow_after_s = table.number("overflow_after_s")
        table.end()
        if weight != 1 and not weighted:
            table.problem("weight", "'weight' needs policy = \"weighted\" in its route.")
        if to is None:
            self._problems.add(table.place, "the target has no 'to': the name of an upstream, or \"local\".")
            return None
        if to != LOCAL and overflow_after_s is not None:
            table.problem("overflow_after_s", 'only our own queue flows over; give it to the target "local".')
        if to == LOCAL and model is not None:
            table.problem("model", "\"local\" makes the route's own model; leave 'model' out.")
        if to != LOCAL and to not in self._upstreams:
            if to not in self._broken:
                table.problem("to", f"there is no upstream '{to[:60]}'; {near(to, [*self._upstreams, LOCAL])}")
            return None
        return _WrittenTarget(table, self._upstreams.get(to), model, 1 if weight is None else weight, overflow_after_s)

    def _hosted(
        self,
        written: _WrittenTarget,
        model_id: str,
        options: Mapping[str, Mapping[str, Any]],
        *,
        strict: bool,
        wide: bool,
    ) -> list[Target]:
        """The target for one of our models; none for one it does not serve, which a route of many models forgives."""
        upstream, model = written.upstream, written.model
        assert upstream is not None, "our own queue is no hosted target"
        served = upstream.serving(model_id) if model is None else upstream.named(model)
        if served is None:
            if model is not None:
                reason = f"there is no profile for '{model[:60]}'; {upstream.kind.title} has {upstream.kind.endpoints}."
                written.table.problem("model", reason)
            elif not wide:
                reason = f"'{upstream.name}' has nothing like '{model_id}'; name its 'model', or set 'models' there."
                written.table.problem("to", reason)
            return []
        made = target_of(upstream, served, written.weight, options.get(upstream.kind.name, {}), strict=strict)
        if made.sheet is not None and not made.sheet.known:
            reason = f"no price is known for {made.name}; set 'price' at [upstreams.{upstream.name}]."
            written.table.problem("to", reason)
        return [made]


def target_of(
    upstream: UpstreamSettings,
    served: ServedModel,
    weight: int = 1,
    options: Mapping[str, Any] | None = None,
    *,
    strict: bool = False,
) -> Target:
    """A model of an upstream as a target; options: the operator's, passed on as they are."""
    return Target(
        name=f"{upstream.name}/{served.endpoint}",
        upstream=upstream.name,
        model=served.endpoint,
        normalise=Normaliser(
            served.profile,
            served.endpoint,
            strict,
            upstream.defaults,
            options or {},
            priced=upstream.price is not None or not upstream.charged,
        ),
        sheet=upstream.sheet(served),
        weight=weight,
        region=upstream.region,
    )


def public_model(name: str) -> Model | None:
    """A model of ours by its id or another name of it."""
    return next((model for model in MODELS if name == model.id or name in model.aliases), None)


def public_ids() -> str:
    return ", ".join(model.id for model in MODELS)


def _conditions(table: Table) -> Conditions:
    most = table.number("max_price_usd")
    made = Conditions(
        max_images=table.count("max_images"),
        max_pixels=table.count("max_pixels"),
        keys=table.texts("keys"),
        regions=table.texts("regions"),
        max_price_microusd=None if most is None else round(most * 1_000_000),
    )
    table.end()
    return made
