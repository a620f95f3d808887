"""What an operator has set of one upstream, checked: where its key comes from, what it costs, which models it serves.

A key is a variable, a file, or the caller's own: the routes file never holds it.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from retouch.catalog.profiles import Kind, Profile, Sheet, hosted
from retouch.catalog.routing import model_named
from retouch.errors import InvalidSetting
from retouch.secret import Secret, remember
from retouch.upstreams.upstream import ImageMode

FORMS: Final = "env:NAME, file:PATH or caller:NAME"

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CALLERS: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_OTHERS: Final = stat.S_IROTH | stat.S_IWOTH
_MOST_CHARACTERS: Final = 4096


@dataclass(frozen=True, slots=True)
class KeySource:
    """secret: the key itself, once read. caller: the name under which each caller has stored their own; no other is
    used then. Neither for a provider that wants no key.
    """

    secret: Secret | None = None
    caller: str | None = None


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What an upstream is asked for: the provider's id, and the row that tells what that takes."""

    endpoint: str
    profile: Profile

    @classmethod
    def of(cls, kind: Kind, endpoint: str, profile_id: str | None = None) -> ServedModel | None:
        """profile_id: of the row, where the provider's id has none. None when there is no such row of this kind."""
        table = hosted()
        profile = table.profile(kind.name, endpoint) if profile_id is None else table.profiles.get(profile_id)
        return None if profile is None or profile.kind != kind.name else cls(endpoint, profile)


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """One `[upstreams.NAME]`, checked.

    models: by our public ids, besides what the kind's own rows serve. price: for all its models, instead of their
    sheets. charged: False where nothing is ever owed. ttl_s, execution_s: how long a job may wait and run there.
    defaults: sent where a request leaves the choice. images: how inputs reach it.
    """

    name: str
    kind: Kind
    key: KeySource
    base_url: str | None = None
    models: Mapping[str, ServedModel] = field(default_factory=dict)
    price: Sheet | None = None
    charged: bool = True
    ttl_s: float | None = None
    execution_s: float | None = None
    max_in_flight: int | None = None
    images: ImageMode = ImageMode.AUTO
    defaults: Mapping[str, Any] = field(default_factory=dict)
    region: str = ""
    workspace: str | None = None

    def serving(self, model_id: str) -> ServedModel | None:
        """What it is asked for instead of one of our public ids; None when it has nothing like it."""
        same = hosted().same_as.get(model_id, model_id)
        own = self.models.get(model_id) or self.models.get(same)
        profile = hosted().serving(self.kind.name, model_id)
        if own is not None or profile is None:
            return own
        return ServedModel(same if profile.endpoint == "*" else profile.endpoint, profile)

    def named(self, endpoint: str) -> ServedModel | None:
        """The same for the provider's own id, or for one of ours; None when there is no row for it."""
        if endpoint in self.models or (model_named(endpoint) and self.serving(endpoint)):
            return self.serving(endpoint)
        own = next((served for served in self.models.values() if served.endpoint == endpoint), None)
        return own or ServedModel.of(self.kind, endpoint)

    def sheet(self, served: ServedModel) -> Sheet | None:
        """What a target costs; None where nothing is owed."""
        if not self.charged:
            return None
        if self.price is not None:
            return self.price
        if served.profile.price is not None:
            return served.profile.price
        return None if not self.kind.paid else Sheet(reported=self.kind.reports)


def read_key(written: str, folder: Path, environment: Mapping[str, str]) -> KeySource:
    """The key that `written` points to. folder: of the routes file, for relative paths.

    Raises InvalidSetting with a sentence that repeats no part of a key that stands there itself.
    """
    form, colon, rest = written.partition(":")
    if colon and form == "env":
        if not _NAME.fullmatch(rest):
            raise InvalidSetting(f"'{rest[:60]}' is no name of a variable.")
        value = environment.get(rest, "")
        if not value.strip():
            raise InvalidSetting(f"the variable {rest} is not set.")
        return KeySource(_secret(value.strip(), f"the variable {rest}"))
    if colon and form == "file":
        file = folder / rest
        try:
            if file.stat().st_mode & _OTHERS:
                raise InvalidSetting(
                    f"the file {file} may be read or changed by every user of this machine; chmod 600 it."
                )
            value = file.read_text(encoding="utf-8").rstrip("\r\n")
        except OSError as error:
            raise InvalidSetting(f"the file {file} cannot be read: {error.strerror}.") from None
        except UnicodeDecodeError:
            raise InvalidSetting(f"the file {file} is not UTF-8.") from None
        return KeySource(_secret(value, f"the file {rest}"))
    if colon and form == "caller":
        if not _CALLERS.fullmatch(rest):
            raise InvalidSetting(
                "a caller's key is named in small letters, digits, '-' and '_', such as caller:studio."
            )
        return KeySource(caller=rest)
    remember(written, "••••")
    raise InvalidSetting(f"a key is never written here itself; write {FORMS}, and replace the key that stood here.")


def _secret(value: str, where: str) -> Secret:
    if not value:
        raise InvalidSetting(f"{where} is empty.")
    if len(value) > _MOST_CHARACTERS or not (value.isascii() and value.isprintable()) or " " in value:
        raise InvalidSetting(f"{where} holds what no header may: a key is one line of printable ASCII without blanks.")
    return Secret(value)
