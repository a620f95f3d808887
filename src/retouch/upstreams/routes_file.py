"""Reads `retouch.toml`: upstreams, their keys and prices, and the routes that lead to them.

Everything is checked before anything is used, and every mistake is told with its line: unknown names, models without a
profile, targets without a price, keys that cannot be read, routes that no edit reaches. What comes out are the values
of `routes.py`. Nothing is contacted.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from retouch.catalog.normaliser import Normaliser, ServedTarget
from retouch.catalog.profiles import LOCAL, Kind, Sheet, hosted, local_profile, sheet_of_dollars
from retouch.catalog.routing import MODELS, Catalog, Model, model_named
from retouch.errors import InvalidSetting
from retouch.upstreams.routes import Conditions, Connect, GatewaySettings, RouteRule, Routes, Target
from retouch.upstreams.toml_tables import InvalidRoutesFile, Problems, Table, TomlLines, near
from retouch.upstreams.upstream import ImageMode
from retouch.upstreams.upstream_settings import FORMS, KeySource, ServedModel, UpstreamSettings, read_key

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_TAKEN: Final = frozenset({LOCAL, *(model.id.partition("/")[0] for model in MODELS)})
_PRICES: Final = ("per_image_usd", "per_megapixel_usd", "per_second_usd", "per_input_image_usd")


@dataclass(frozen=True, slots=True)
class RoutesFile:
    """A loaded file. rules: one for each public model a route fits, in the order of the file. forced: every target that
    can be named as `upstream/model`, and forced_models: the row of ours that such a request is checked against.
    """

    path: Path
    settings: GatewaySettings
    upstreams: Mapping[str, UpstreamSettings]
    rules: tuple[RouteRule, ...]
    forced: Mapping[str, Target]
    forced_models: Mapping[str, Model]

    def routes(self, connect: Connect) -> Routes:
        """What the runner goes by."""
        return Routes(self.rules, connect, self.settings, self.forced)

    def lead(self, catalog: Catalog) -> None:
        """Have the catalogue know which models lead where."""
        catalog.lead(self.routes(lambda _upstream, _account: None).leads, self.forced_models, self.targets_of)

    def targets_of(self, model_id: str) -> tuple[ServedTarget, ...]:
        """Every target that an edit of a model may be offered to, in the order of the file, each once."""
        forced = self.forced.get(model_id)
        rules = [rule.targets for rule in self.rules if rule.model == model_id]
        targets = (forced,) if forced else tuple(dict.fromkeys(target for each in rules for target in each))
        found: dict[str, ServedTarget] = {}
        for target in targets:
            profile = target.normalise.profile if isinstance(target.normalise, Normaliser) else local_profile()
            found.setdefault(target.name, ServedTarget(target.name, profile, target.sheet, target.normalise))
        return tuple(found.values())


def load_routes(
    path: Path, *, environment: Mapping[str, str] | None = None, public_url: str | None = None
) -> RoutesFile:
    """Read and check a routes file. public_url: the server's own, where the file names none.

    Raises InvalidRoutesFile with every mistake that was found, InvalidSetting when there is no such file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidSetting(f"The routes file {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise InvalidSetting(f"The routes file {path} is not UTF-8.") from None
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where = re.search(r"\(at line (\d+), column \d+\)", str(error))
        line = int(where[1]) if where else text.count("\n") + 1
        reason = re.sub(r"\s*\(at .*\)$", "", str(error))
        raise InvalidRoutesFile(path, [(line, f"this is not TOML: {reason[:1].lower()}{reason[1:]}.")]) from None
    problems = Problems(TomlLines(text))
    root = Table(problems, (), data)
    gateway = root.table("gateway")
    settings = _gateway(gateway, public_url) if gateway else GatewaySettings(public_url=public_url)
    table = root.table("upstreams")
    written = dict(table.members()) if table else {}
    # The values are made although some are wrong, so that all mistakes are told at once.
    reader = _UpstreamReader(problems, path.parent, os.environ if environment is None else environment, settings)
    read = {name: reader.upstream(name, value) for name, value in written.items()}
    upstreams = {name: each for name, each in read.items() if each is not None}
    rule_reader = _RuleReader(problems, upstreams, broken=frozenset(written) - frozenset(upstreams))
    rules = [rule for each in root.tables("routes") for rule in rule_reader.rules(each)]
    root.end()
    if not rules and not problems.found:
        problems.add((), "there is no [[routes]], so nothing would be led anywhere.")
    if problems.found:
        raise InvalidRoutesFile(path, problems.found)
    return RoutesFile(path, settings, upstreams, tuple(rules), *_forced(upstreams))


def _gateway(table: Table, public_url: str | None) -> GatewaySettings:
    plain = GatewaySettings()
    url = table.text("public_url", public_url)
    if url is not None:
        _check_address(table, "public_url", url)
    on_unknown = table.word("on_unknown", ("fail", "repeat"), plain.on_unknown)
    on_missing = table.word("on_missing", ("complete", "fail"), plain.on_missing)
    made = GatewaySettings(
        public_url=None if url is None else url.rstrip("/"),
        deadline_s=table.number("deadline_s", plain.deadline_s, least=1) or plain.deadline_s,
        on_unknown="repeat" if on_unknown == "repeat" else "fail",
        keep_unknown_hold=table.switch("keep_unknown_hold"),
        pay_again=table.switch("pay_again"),
        on_missing="fail" if on_missing == "fail" else "complete",
        max_in_flight=table.count("max_in_flight", plain.max_in_flight) or plain.max_in_flight,
    )
    table.end()
    return made


def _check_address(table: Table, name: str, url: str) -> None:
    """Tell when `url` is not an address that paths can be put behind."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or not url.isascii() or not url.isprintable() or " " in url:
        table.problem(name, f"'{name}' must be http(s)://HOST[:PORT][/PATH].")
    elif parts.username is not None or parts.query or parts.fragment:
        table.problem(name, f"'{name}' must hold no key, query or fragment; a key has its own line.")


class _UpstreamReader:
    """The `[upstreams.NAME]` of a file. folder: of the file, for keys in files beside it."""

    def __init__(
        self, problems: Problems, folder: Path, environment: Mapping[str, str], settings: GatewaySettings
    ) -> None:
        self._problems = problems
        self._folder = folder
        self._environment = environment
        self._settings = settings

    def upstream(self, name: str, value: object) -> UpstreamSettings | None:
        """None when something is wrong with it, which has been told."""
        before = len(self._problems.found)
        table = Table(self._problems, ("upstreams", name), value)
        if not _NAME.fullmatch(name) or name in _TAKEN:
            self._problems.add(table.place, f"'{name[:60]}' cannot name an upstream; take small letters, digits, '-'.")
        kinds, word = hosted().kinds, table.text("kind")
        if word is None:
            self._problems.add(table.place, f"the upstream has no 'kind'; there are {', '.join(kinds)}.")
        elif word not in kinds:
            table.problem("kind", f"'{word[:60]}' is no kind of upstream; {near(word, kinds)}")
        kind = kinds.get(word or "")
        if kind is None:
            return None
        limits, price = table.table("limits"), table.table("price")
        made = UpstreamSettings(
            name=name,
            kind=kind,
            key=self._key(table, kind),
            base_url=self._base_url(table, kind),
            models=self._models(table, kind),
            price=_price(price) if price else None,
            charged=table.word("charge", ("sheet", "none"), "sheet") == "sheet",
            ttl_s=limits.number("ttl_s", least=10) if limits else None,
            execution_s=limits.number("execution_s", least=5) if limits else None,
            max_in_flight=table.count("max_in_flight"),
            images=ImageMode(table.word("images", tuple(ImageMode), ImageMode.AUTO)),
            defaults=table.take("defaults", dict, "a table", {}),
            region=table.text("region") or "",
            workspace=table.text("workspace"),
        )
        if made.images is ImageMode.LINK and self._settings.public_url is None:
            table.problem("images", "links need an address that providers can reach; set public_url in [gateway].")
        if limits:
            limits.end()
        table.end()
        return made if len(self._problems.found) == before else None

    def _key(self, table: Table, kind: Kind) -> KeySource:
        given = table.has("key")
        written = table.text("key")
        if written is None:
            if not given and kind.base_url is not None:
                self._problems.add(table.place, f"{kind.title} wants a key; write key = {FORMS}.")
            return KeySource()
        try:
            return read_key(written, self._folder, self._environment)
        except InvalidSetting as error:
            table.problem("key", error.message)
            return KeySource()

    def _base_url(self, table: Table, kind: Kind) -> str | None:
        url = table.text("base_url", kind.base_url)
        if url is None:
            self._problems.add(table.place, f"the kind '{kind.name}' needs a base_url, such as https://HOST:PORT.")
            return None
        _check_address(table, "base_url", url)
        return url.rstrip("/")

    def _models(self, table: Table, kind: Kind) -> dict[str, ServedModel]:
        served: dict[str, ServedModel] = {}
        models = table.table("models")
        for name, value in models.members() if models else ():
            place = (*table.place, "models", name)
            entry = Table(self._problems, place, {"id": value} if isinstance(value, str) else value)
            endpoint, profile_id = entry.text("id"), entry.text("profile")
            entry.end()
            model = public_model(name)
            if model is None:
                self._problems.add(place, f"'{name[:60]}' is no model of ours; there are {public_ids()}.")
            elif not endpoint:
                self._problems.add(place, f"'{name}' needs the provider's own id: id = \"…\".")
            elif (made := ServedModel.of(kind, endpoint, profile_id)) is None:
                wanted = f"'{(profile_id or endpoint)[:60]}'"
                self._problems.add(place, f"there is no profile {wanted}; {kind.title} has {kind.endpoints}.")
            else:
                served[model.id] = made
        return served


def _price(table: Table) -> Sheet:
    values: dict[str, Any] = {name: table.number(name, 0.0) for name in _PRICES}
    sheet = sheet_of_dollars({**values, "reported": table.switch("reported")})
    table.end()
    if not sheet.known:
        table.problem("", 'the price is nothing at all; write charge = "none" for an upstream that is free.')
    return sheet


@dataclass(frozen=True, slots=True)
class _WrittenTarget:
    """A member of `targets`, before it is known for which model it is. upstream: None for our own queue."""

    table: Table
    upstream: UpstreamSettings | None
    model: str | None
    weight: int
    overflow_after_s: float | None


class _RuleReader:
    """The `[[routes]]` of a file, in order: for which models and requests each is, and which targets it leads to.

    upstreams: those that are right, by name; broken: names of the others, of which enough has been told.
    """

    def __init__(self, problems: Problems, upstreams: Mapping[str, UpstreamSettings], *, broken: Set[str]) -> None:
        self._problems = problems
        self._upstreams = upstreams
        self._broken = broken
        self._earlier: list[tuple[RouteRule, int]] = []  # with the line of each

    def rules(self, table: Table) -> list[RouteRule]:
        """One rule for each of our models that a route is for. One that leads nowhere is a mistake."""
        before = len(self._problems.found)
        pattern = table.text("model")
        ids = self._model_ids(table, pattern)
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
        made: list[RouteRule] = []
        for model_id in ids:
            targets: list[Target] = []
            for each in written:
                if each is not None and each.upstream is None:
                    targets.append(Target(LOCAL, weight=each.weight, overflow_after_s=each.overflow_after_s))
                elif each is not None:
                    targets += self._hosted(each, model_id, options, strict=strict, wide=len(ids) > 1)
            if targets:
                rule = RouteRule(model_id, tuple(targets), conditions, strict=strict, hedge_after_s=hedge_after_s)
                made.append(replace(rule, policy="weighted") if weighted else rule)
        if not made and all(each is not None for each in written) and len(self._problems.found) == before:
            reason = "none of its targets has a model like ours; name their 'model', or set 'models' at the upstream."
            table.problem("targets", reason if written else "'targets' is empty, so the route leads nowhere.")
        hosted_targets = max((sum(not target.local for target in rule.targets) for rule in made), default=2)
        if hedge_after_s is not None and hosted_targets < 2 and None not in written:
            reason = (
                "'hedge_after_s' asks a second upstream when the first one takes long; this route has fewer than two."
            )
            table.problem("hedge_after_s", reason)
        self._tell_if_hidden(table, pattern, made)
        return made

    def _tell_if_hidden(self, table: Table, pattern: str | None, rules: Sequence[RouteRule]) -> None:
        """A route whose every edit is taken by one before it would be read as if it did something."""
        lines: set[int | None] = set()
        for rule in rules:
            before = (line for each, line in self._earlier if each.model == rule.model and each.when.cover(rule.when))
            lines.add(next(before, None))
        self._earlier += [(rule, self._problems.lines.line_of(table.place)) for rule in rules]
        if lines and None not in lines:
            numbers = ", ".join(str(line) for line in sorted(filter(None, lines)))
            where = f"the routes in lines {numbers} take" if len(lines) > 1 else f"the route in line {numbers} takes"
            reason = f"no edit reaches the route for '{pattern}': {where} all that it is for."
            table.problem("model", f"{reason} Move it up, or give what stands before it a 'when'.")

    def _model_ids(self, table: Table, pattern: str | None) -> list[str]:
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
        made = _target_of(upstream, served, written.weight, options.get(upstream.kind.name, {}), strict=strict)
        if made.sheet is not None and not made.sheet.known:
            reason = f"no price is known for {made.name}; set 'price' at [upstreams.{upstream.name}]."
            written.table.problem("to", reason)
        return [made]


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


def _target_of(
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


def _forced(upstreams: Mapping[str, UpstreamSettings]) -> tuple[dict[str, Target], dict[str, Model]]:
    """Every target by `upstream/model`, by the provider's id and by ours."""
    targets: dict[str, Target] = {}
    models: dict[str, Model] = {}
    for upstream in upstreams.values():
        own = [served.endpoint for served in upstream.models.values()]
        rows = [p.endpoint for p in hosted().profiles.values() if p.kind == upstream.kind.name and p.endpoint != "*"]
        for name in dict.fromkeys([*(model.id for model in MODELS), *own, *rows]):
            served = upstream.named(name)
            model = None if served is None else model_named(name) or model_named(served.profile.like)
            if served is None or model is None:
                continue
            target = _target_of(upstream, served)
            if target.sheet is None or target.sheet.known:
                targets[f"{upstream.name}/{name}"] = target
                models[f"{upstream.name}/{name}"] = model
    return targets, models


def public_model(name: str) -> Model | None:
    """A model of ours by its id or another name of it."""
    return next((model for model in MODELS if name == model.id or name in model.aliases), None)


def public_ids() -> str:
    return ", ".join(model.id for model in MODELS)
