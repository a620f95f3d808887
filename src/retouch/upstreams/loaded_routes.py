"""The routes file of one process as it is now, and the open connections of its upstreams.

A reload takes the new file whole or leaves the old one as it is. Edits under way go on with what they began with, so
the connections of an old file are closed only when they cannot be in use any more.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from retouch.accounts.upstream_keys import UpstreamKeys
from retouch.errors import InvalidSetting
from retouch.secret import Secret
from retouch.storage.blobs import DEFAULT_TTL_S, Blobs
from retouch.upstreams.options import UpstreamOptions
from retouch.upstreams.registry import open_upstream
from retouch.upstreams.routes import Connection, Routes
from retouch.upstreams.routes_file import RoutesFile, load_routes
from retouch.upstreams.upstream import Upstream
from retouch.upstreams.upstream_settings import UpstreamSettings

logger = structlog.get_logger(__name__)

MOST_CALLERS = 1000
"""Connections with callers' own keys that are kept; with more, all of them are opened anew."""


class LoadedRoutes:
    """Thread-safe. Raises InvalidSetting when the file cannot be used at first.

    allow_private: `HOST[:PORT]` entries that results may be fetched from. results_ttl_s: life of what comes in.
    changed: called with each new file, before it is used.
    """

    def __init__(
        self,
        path: Path,
        *,
        blobs: Blobs,
        keys: UpstreamKeys,
        public_url: str | None = None,
        allow_private: Sequence[str] = (),
        results_ttl_s: float = DEFAULT_TTL_S,
    ) -> None:
        self._path = path
        self._blobs = blobs
        self._keys = keys
        self._public_url = public_url
        self._allow_private = tuple(allow_private)
        self._results_ttl_s = results_ttl_s
        self._changed: Callable[[RoutesFile], None] = lambda _file: None
        self._old: list[tuple[float, _Open]] = []
        self._now = self._load()

    def __call__(self) -> Routes:
        return self._now.routes

    @property
    def file(self) -> RoutesFile:
        return self._now.file

    def on_change(self, tell: Callable[[RoutesFile], None]) -> None:
        """`tell` hears of the file that is there, and of each later one."""
        self._changed = tell
        tell(self.file)

    def reload(self) -> bool:
        """Read the file again; False, and a log line for the operator, when it is wrong: the old one stays."""
        try:
            new = self._load()
        except InvalidSetting as error:
            logger.error("the routes file is wrong; the old one stays", reason=error.message)
            return False
        old, self._now = self._now, new
        self._changed(new.file)
        self._old.append((time.monotonic() + 2 * old.file.settings.deadline_s, old))
        now = time.monotonic()
        for until, each in self._old:
            if until <= now:
                each.close()
        self._old = [(until, each) for until, each in self._old if until > now]
        logger.info("the routes file was read again", routes=len(new.file.rules), upstreams=len(new.file.upstreams))
        return True

    def close(self) -> None:
        for each in (*(old for _, old in self._old), self._now):
            each.close()

    def _load(self) -> _Open:
        file = load_routes(self._path, public_url=self._public_url)
        return _Open(file, self._open, self._keys)

    def _open(self, settings: UpstreamSettings, secret: Secret | None) -> Upstream:
        price = settings.price

        def unit_price(endpoint: str) -> int | None:
            """What a provider's own unit costs, by its own sheet: an operator's price may be of another unit."""
            served = settings.named(endpoint) if price is None else None
            sheet = None if served is None else settings.sheet(served)
            return None if sheet is None else sheet.per_unit_microusd

        options = UpstreamOptions(
            blobs=self._blobs,
            key=lambda scheme: "" if secret is None else f"{scheme} {secret.open()}",
            base_url=settings.base_url,
            images=settings.images,
            paid=None if settings.charged else False,
            metered=price is not None and price.per_second_microusd > 0,
            ttl_s=settings.ttl_s,
            execution_s=settings.execution_s,
            workspace=settings.workspace,
            unit_price=unit_price,
            allow_private=self._allow_private,
            results_ttl_s=self._results_ttl_s,
        )
        return open_upstream(settings.kind.name, options)


class _Open:
    """One file and its connections: one for each upstream, and one for each caller's own key."""

    def __init__(
        self, file: RoutesFile, open_one: Callable[[UpstreamSettings, Secret | None], Upstream], keys: UpstreamKeys
    ) -> None:
        self.file = file
        self.routes = file.routes(self.connect)
        self._open_one = open_one
        self._keys = keys
        self._connections: dict[tuple[str, str], Connection] = {}
        self._lock = threading.Lock()

    def connect(self, name: str, account_id: str) -> Connection | None:
        settings = self.file.upstreams.get(name)
        if settings is None:
            return None
        secret, own = settings.key.secret, settings.key.caller is not None
        if settings.key.caller is not None:
            stored = self._keys.read(account_id, settings.key.caller)
            if stored is None:
                return None
            secret = Secret(stored)
        fingerprint = "no key" if secret is None else secret.fingerprint
        with self._lock:
            known = self._connections.get((name, fingerprint))
            if known is None:
                if len(self._connections) >= MOST_CALLERS:
                    self._connections.clear()
                upstream = self._open_one(settings, secret)
                known = Connection(upstream, fingerprint, own_key=own, max_in_flight=settings.max_in_flight)
                self._connections[name, fingerprint] = known
        return known

    def close(self) -> None:
        with self._lock:
            for each in self._connections.values():
                with contextlib.suppress(OSError):
                    each.upstream.close()
