"""`retouch routes`: check a routes file, and show what it comes to. Nothing is contacted and no key is shown."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from retouch.catalog.normaliser import Normaliser
from retouch.catalog.profiles import Behaviour, hosted
from retouch.errors import InvalidSetting
from retouch.settings import HttpSettings, RoutesSettings
from retouch.upstreams.routes import Conditions, RouteRule
from retouch.upstreams.routes_file import RoutesFile, load_routes, public_ids, public_model

USUAL_FILE = Path("retouch.toml")

_LISTED = (Behaviour.CONVERTED, Behaviour.EMULATED, Behaviour.DROPPED, Behaviour.REFUSED)


def check(settings: RoutesSettings, http: HttpSettings) -> None:
    """Print what the file has; raises InvalidSetting with every mistake and its line."""
    file = _load(settings, http)
    sys.stdout.write(f"{file.path} is right.\n\n")
    for upstream in file.upstreams.values():
        key = "no key" if upstream.key.secret is None else f"key {upstream.key.secret}"
        if upstream.key.caller is not None:
            key = f"each caller's own key '{upstream.key.caller}'"
        sys.stdout.write(f"{upstream.name}: {upstream.kind.title} at {upstream.base_url}, {key}\n")
    models = dict.fromkeys(rule.model for rule in file.rules)
    sys.stdout.write(f"\n{len(models)} models are led: {', '.join(models)}\n")


def show(settings: RoutesSettings, http: HttpSettings, model: str | None) -> None:
    """Print the routes of a model, or of all: conditions, targets in order, prices, what is done to parameters."""
    file = _load(settings, http)
    known = None if model is None else public_model(model)
    wanted = model if known is None else known.id
    rules = [rule for rule in file.rules if wanted is None or rule.model == wanted]
    if model is not None and model in file.forced:
        rules = [RouteRule(model, (file.forced[model],))]
    if not rules:
        raise InvalidSetting(f"No route of {file.path} is for '{model}'; there are models {public_ids()}.")
    sys.stdout.write("\n".join(line for rule in rules for line in _rule_lines(rule)) + "\n")


def _load(settings: RoutesSettings, http: HttpSettings) -> RoutesFile:
    return load_routes(settings.routes or USUAL_FILE, public_url=http.public_url)


def _rule_lines(rule: RouteRule) -> Iterator[str]:
    yield f"{rule.model}: {_conditions(rule.when)}"
    if rule.policy == "weighted":
        yield "  one target by weight, then the others"
    if rule.hedge_after_s is not None:
        yield f"  the next target as well after {rule.hedge_after_s:g} s, where a cancel is free"
    if rule.strict:
        yield "  strict: what a target would drop is refused"
    for number, target in enumerate(rule.targets, 1):
        if target.local:
            overflow = target.overflow_after_s
            terms = "our own queue" + ("" if overflow is None else f", last when the wait is over {overflow:g} s")
        else:
            terms = "free" if target.sheet is None else str(target.sheet)
            terms += f", in {target.region}" if target.region else ""
        terms += f", weight {target.weight}" if rule.policy == "weighted" else ""
        yield f"  {number}. {target.name}: {terms}"
        if isinstance(target.normalise, Normaliser):
            cells = target.normalise.profile.cells
            for behaviour in _LISTED:  # the fields that do not go through as they are, by what becomes of them
                names = [name for name in hosted().fields if cells[name].behaviour is behaviour]
                if names:
                    yield f"       {behaviour.value}: {', '.join(names)}"
    yield ""


def _conditions(when: Conditions) -> str:
    conditions = [
        "" if when.max_images is None else f"up to {when.max_images} images",
        "" if when.max_pixels is None else f"up to {when.max_pixels} pixels",
        f"keys {', '.join(when.keys)}" if when.keys else "",
        f"targets in {', '.join(when.regions)}" if when.regions else "",
        "" if when.max_price_microusd is None else f"targets up to {when.max_price_microusd / 1e6:g} USD",
    ]
    return ", ".join(filter(None, conditions)) or "every request"
