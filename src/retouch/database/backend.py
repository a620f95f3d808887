"""What Retouch needs of a database beyond SQL; `sqlite.py` and `postgres.py` implement it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal, Protocol, TypeAlias

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

Durability: TypeAlias = Literal["immediate", "deferred", "eventual"]
"""When a commit survives a power cut; see `Database.transaction`."""

LOCK_TIMEOUT_S = 10.0
"""How long a writer waits for its turn before it answers that the database is unavailable."""


class Backend(Protocol):
    """Two engines, and in which ways the databases differ."""

    @property
    def writer(self) -> Engine: ...

    @property
    def reader(self) -> Engine: ...

    def turn(self) -> AbstractContextManager[None]:
        """Held while a writer works; where a database orders its writers itself, nothing."""

    def prepare_commit(self, connection: Connection, durability: Durability) -> None:
        """Called as a transaction begins."""

    def sync(self) -> None:
        """Return when everything committed before this call, but for `eventual`, survives a power cut."""

    def migration(self) -> AbstractContextManager[Connection]:
        """A transaction for changing the schema; one process at a time gets it."""

    def unavailable_reason(self, error: DBAPIError) -> str | None:
        """Why the database cannot be used, to end a sentence; None when the statement itself was wrong."""
