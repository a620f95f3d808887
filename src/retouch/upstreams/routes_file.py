"""Reads `retouch.toml`: upstreams, their keys and prices, and the routes that lead to them.

Everything is checked before anything is used, and every mistake is told with its line: unknown names, models without a
profile, targets without a price, keys that cannot be read. What comes out are the values of `routes.py`. Nothing is
contacted.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from retouch.catalog.normaliser import Normaliser
from retouch.catalog.profiles import LOCAL, Kind, ServedTarget, Sheet, hosted, local_profile, sheet_of_dollars
from retouch.catalog.routing import MODELS, Catalog, Model, model_named
from retouch.errors import InvalidSetting
from retouch.upstreams.key_source import FORMS, KeySource, read_key
from retouch.upstreams.route_rules import RuleReader, public_ids, public_model, target_of
from retouch.upstreams.routes import Connect, GatewaySettings, RouteRule, Routes, Target
from retouch.upstreams.toml_lines import TomlLines
from retouch.upstreams.toml_table import InvalidRoutesFile, Problems, Table, near
from retouch.upstreams.upstream_settings import IMAGE_MODES, ServedModel, UpstreamSettings

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
            found.setdefault(target.name, ServedTarget(target.name, profile, target.sheet))
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
    reader = _FileReader(path, problems, os.environ if environment is None else environment)
    file = reader.read(data, public_url)
    if problems.found:
        raise InvalidRoutesFile(path, problems.found)
    return file


class _FileReader:
    """Makes the values although some are wrong, so that all mistakes are told at once."""

    def __init__(self, path: Path, problems: Problems, environment: Mapping[str, str]) -> None:
        self._path = path
        self._problems = problems
        self._environment = environment

    def read(self, data: Mapping[str, Any], public_url: str | None) -> RoutesFile:
        root = Table(self._problems, (), data)
        gateway = root.table("gateway")
        settings = _gateway(gateway, public_url) if gateway else GatewaySettings(public_url=public_url)
        table = root.table("upstreams")
        written = dict(table.members()) if table else {}
        read = {name: self._upstream(name, value, settings) for name, value in written.items()}
        upstreams = {name: each for name, each in read.items() if each is not None}
        rule_reader = RuleReader(self._problems, upstreams, broken=frozenset(written) - frozenset(upstreams))
        rules = [rule for each in root.tables("routes") for rule in rule_reader.rules(each)]
        root.end()
        if not rules and not self._problems.found:
            self._problems.add((), "there is no [[routes]], so nothing would be led anywhere.")
        forced, forced_models = _forced(upstreams)
        return RoutesFile(self._path, settings, upstreams, tuple(rules), forced, forced_models)

    def _upstream(self, name: str, value: object, settings: GatewaySettings) -> UpstreamSettings | None:
        """None when something is wrong with it, which has been told."""
        before = len(self._problems.found)
        table = Table(self._problems, ("upstreams", name), value)
        if not _NAME.fullmatch(name) or name in _TAKEN:
            self._problems.add(table.place, f"'{name[:60]}' cannot name an upstream; take small letters, digits, '-'.")
        kind = self._kind(table)
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
            images=table.word("images", IMAGE_MODES, "auto"),
            defaults=table.take("defaults", dict, "a table", {}),
            region=table.text("region") or "",
            workspace=table.text("workspace"),
        )
        if made.images == "link" and settings.public_url is None:
            table.problem("images", "links need an address that providers can reach; set public_url in [gateway].")
        if limits:
            limits.end()
        table.end()
        return made if len(self._problems.found) == before else None

    def _kind(self, table: Table) -> Kind | None:
        kinds = hosted().kinds
        word = table.text("kind")
        if word is None:
            self._problems.add(table.place, f"the upstream has no 'kind'; there are {', '.join(kinds)}.")
        elif word not in kinds:
            table.problem("kind", f"'{word[:60]}' is no kind of upstream; {near(word, kinds)}")
        return kinds.get(word or "")

    def _key(self, table: Table, kind: Kind) -> KeySource:
        given = table.has("key")
        written = table.text("key")
        if written is None:
            if not given and kind.base_url is not None:
                self._problems.add(table.place, f"{kind.title} wants a key; write key = {FORMS}.")
            return KeySource()
        try:
            return read_key(written, self._path.parent, self._environment)
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
            entry = Table(self._problems, (*table.place, "models", name), {"id": value} if _is_text(value) else value)
            endpoint, profile_id = entry.text("id"), entry.text("profile")
            entry.end()
            model = public_model(name)
            if model is None:
                self._problems.add(entry.place, f"'{name[:60]}' is no model of ours; there are {public_ids()}.")
            elif not endpoint:
                self._problems.add(entry.place, f"'{name}' needs the provider's own id: id = \"…\".")
            else:
                made = ServedModel.of(kind, endpoint, profile_id)
                if made is None:
                    wanted = f"'{(profile_id or endpoint)[:60]}'"
                    self._problems.add(entry.place, f"there is no profile {wanted}; {kind.title} has {kind.endpoints}.")
                else:
                    served[model.id] = made
        return served


def _is_text(value: object) -> bool:
    return isinstance(value, str)


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


def _price(table: Table) -> Sheet:
    values: dict[str, Any] = {name: table.number(name, 0.0) for name in _PRICES}
    sheet = sheet_of_dollars({**values, "reported": table.switch("reported")})
    table.end()
    if not sheet.known:
        table.problem("", 'the price is nothing at all; write charge = "none" for an upstream that is free.')
    return sheet


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
            target = target_of(upstream, served)
            if target.sheet is None or target.sheet.known:
                targets[f"{upstream.name}/{name}"] = target
                models[f"{upstream.name}/{name}"] = model
    return targets, models
