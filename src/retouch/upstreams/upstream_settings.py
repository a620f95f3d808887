"""What an operator has set of one upstream, checked: the values of an `[upstreams.NAME]`, and which models it
serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from retouch.catalog.profiles import Kind, Profile, Sheet, hosted
from retouch.catalog.routing import model_named
from retouch.upstreams.key_source import KeySource

IMAGE_MODES: Final = ("auto", "link", "upload", "inline")


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
    defaults: sent where a request leaves the choice. images: how inputs reach it, one of IMAGE_MODES.
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
    images: str = "auto"
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
