"""One open database: blocks for reading and writing, and driver errors as DatabaseUnavailable. It knows no table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from sqlalchemy import Connection, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from retouch.database.backend import Backend, Durability
from retouch.database.postgres import Postgres
from retouch.database.sqlite import Sqlite
from retouch.errors import DatabaseUnavailable, InvalidRequest


class Database:
    """One open database. Thread-safe; open one per process and close it at the end.

    url: `sqlite:///relative.db`, `sqlite:////absolute.db` or `postgresql://user@host/name`. Nothing is
    touched before the first use. Every verb raises DatabaseUnavailable when the database cannot be
    reached or written; what the caller raises inside a block rolls it back and passes through.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
            backend = parsed.get_backend_name()
        except ArgumentError:
            raise InvalidRequest(
                "The database must be a URL: 'sqlite:///…' or 'postgresql://…'.", field="database"
            ) from None
        if backend not in ("sqlite", "postgresql", "postgres"):
            raise InvalidRequest(f"The database must be SQLite or PostgreSQL, not '{backend}'.", field="database")
        self.dialect: Literal["sqlite", "postgresql"]
        self._backend: Backend
        if backend == "sqlite":
            self.dialect, self._backend = "sqlite", Sqlite(parsed)
        else:
            self.dialect, self._backend = "postgresql", Postgres(parsed)
        self.url = parsed

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection for reading: all statements of the block see the database at one moment."""
        with self._named_errors(), self._backend.reader.connect() as connection:
            yield connection

    @contextmanager
    def transaction(self, *, durability: Durability = "immediate") -> Iterator[Connection]:
        """A connection for writing: commits at the end of the block, rolls back when it raises.

        A commit survives the death of every process, in order, and others see it at once. durability says when
        it survives a power cut too: `immediate`, when the block is left; `deferred`, when `sync` has returned;
        `eventual`, with whatever is synced after it.
        """
        with self._named_errors():
            with self._backend.turn(), self._backend.writer.begin() as connection:
                self._backend.prepare_commit(connection, durability)
                yield connection
            if durability == "immediate":
                self._backend.sync()

    def sync(self) -> None:
        """Make what was committed before this call survive a power cut. Callers at the same time share one wait."""
        with self._named_errors():
            self._backend.sync()

    @contextmanager
    def migration(self) -> Iterator[Connection]:
        """A transaction for changing the schema; one process at a time gets it."""
        with self._named_errors(), self._backend.migration() as connection:
            yield connection

    def close(self) -> None:
        self._backend.writer.dispose()
        self._backend.reader.dispose()

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Turn the drivers' errors about the database itself into DatabaseUnavailable; others are our bugs."""
        try:
            yield
        except PoolTimeout as error:
            raise DatabaseUnavailable("The database is unavailable: all connections are busy.") from error
        except DBAPIError as error:
            reason = self._backend.unavailable_reason(error)
            if reason is None:
                raise
            raise DatabaseUnavailable(f"The database is unavailable: {reason}.") from error
