"""Opens the database, SQLite or PostgreSQL, and hands out connections: `read`, `transaction`, `migrate`.

Everything in which the two databases differ is in this file: how a connection is set up, how writers take
turns, how an insert meets a conflict, which driver error means "out of reach". It knows no table.

SQLite allows one writer at a time. Writers of this process queue on a lock instead of on SQLite's retries
with growing sleeps, which would put hundreds of milliseconds on the slowest of eight callers; the writers of
other processes are met by BEGIN IMMEDIATE and the busy timeout. Readers never wait (WAL).
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from sqlalchemy import (
    URL,
    BigInteger,
    Connection,
    DateTime,
    Dialect,
    Engine,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from retouch import migrations
from retouch.errors import DatabaseUnavailable, InvalidRequest

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)
"""Every table of Retouch; the stations add theirs in their own `tables.py`."""

Durability: TypeAlias = Literal["immediate", "deferred", "eventual"]

LOCK_TIMEOUT_S = 10.0
"""How long a writer waits for its turn before it answers that the database is unavailable."""

MIGRATION_LOCK = 0x7265746F75636800
"""PostgreSQL advisory lock held while the schema is brought up to date ("retouch" in hexadecimal)."""

Number = BigInteger().with_variant(Integer(), "sqlite")
"""A 64-bit integer that SQLite accepts as an automatic primary key."""


class UtcTime(TypeDecorator[datetime]):
    """A moment, timezone-aware UTC in Python; `timestamptz` or sortable text in the database."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        assert value.tzinfo is not None, "times are timezone-aware"
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Json(TypeDecorator[Any]):
    """A JSON value kept as ASCII text, so that any prompt fits both databases (NUL, lone surrogates)."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else json.dumps(value, separators=(",", ":"))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any | None:  # noqa: ARG002
        return None if value is None else json.loads(value)


def insert_into(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that knows `on_conflict_do_nothing` and `on_conflict_do_update`."""
    return insert_of(connection.dialect.name, table)


def insert_of(dialect: str, table: Table) -> sqlite.Insert | postgresql.Insert:
    """`insert_into` for a statement that is built once for each kind of database and kept."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


class Database:
    """One open database. Thread-safe; open one per process and close it at the end.

    url: `sqlite:///relative.db`, `sqlite:////absolute.db` or `postgresql://user@host/name`. Nothing is
    touched before the first use. Every verb raises DatabaseUnavailable when the database cannot be
    reached or written; what the caller raises inside a block rolls it back and passes through.
    """

    def __init__(self, url: str) -> None:
        parsed = _parse(url)
        self.dialect: Literal["sqlite", "postgresql"]
        self._engines: _Engines
        if parsed.get_backend_name() == "sqlite":
            self.dialect, self._engines = "sqlite", _Sqlite(parsed)
        else:
            self.dialect, self._engines = "postgresql", _Postgres(parsed)
        self.url = parsed

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection for reading: all statements of the block see the database at one moment."""
        with _named_reasons(), self._engines.reader.connect() as connection:
            yield connection

    @contextmanager
    def transaction(self, *, durability: Durability = "immediate") -> Iterator[Connection]:
        """A connection for writing: commits at the end of the block, rolls back when it raises.

        A commit survives the death of every process, in order, and others see it at once. durability says when
        it survives a power cut too: `immediate`, when the block is left; `deferred`, when `sync` has returned;
        `eventual`, with whatever is synced after it.
        """
        with _named_reasons():
            with self._engines.turn(), self._engines.writer.begin() as connection:
                self._engines.prepare_commit(connection, durability)
                yield connection
            if durability == "immediate":
                self._engines.sync()

    def sync(self) -> None:
        """Make what was committed before this call survive a power cut. Callers at the same time share one wait."""
        with _named_reasons():
            self._engines.sync()

    def migrate(self) -> None:
        """Bring the schema up to date. Several processes may call it at the same time."""
        with _named_reasons(), self._engines.migration() as connection:
            migrations.upgrade(connection)

    def close(self) -> None:
        self._engines.writer.dispose()
        self._engines.reader.dispose()


class _Engines(Protocol):
    """What differs between the databases: two engines, whose turn it is, what a commit waits for, who may migrate."""

    @property
    def writer(self) -> Engine: ...

    @property
    def reader(self) -> Engine: ...

    def turn(self) -> AbstractContextManager[None]: ...

    def prepare_commit(self, connection: Connection, durability: Durability) -> None: ...

    def sync(self) -> None: ...

    def migration(self) -> AbstractContextManager[Connection]: ...


class _Sqlite:
    """`synchronous = NORMAL` and a sync of the log after the commit instead of FULL, which syncs inside it: the
    writer's turn is over before the disk is waited for, and writers that wait together need one sync.
    """

    def __init__(self, url: URL) -> None:
        if not url.database or url.database == ":memory:":
            raise InvalidRequest("SQLite needs a file: 'sqlite:///path/to/retouch.db'.", field="database")
        self._path = Path(url.database).absolute()
        self._writing = threading.Lock()
        self._log = _SharedSync(Path(f"{self._path}-wal"))
        options = {"connect_args": {"timeout": LOCK_TIMEOUT_S, "cached_statements": 256}}
        self.writer = create_engine(url, pool_size=1, max_overflow=0, **options)
        self.reader = create_engine(url, pool_size=8, max_overflow=32, **options)
        event.listen(self.writer, "connect", _prepare_sqlite)
        event.listen(self.reader, "connect", _prepare_sqlite_reader)
        event.listen(self.writer, "begin", _begin_writing)
        event.listen(self.reader, "begin", _begin_reading)

    @contextmanager
    def turn(self) -> Iterator[None]:
        if not self._writing.acquire(timeout=LOCK_TIMEOUT_S):
            raise DatabaseUnavailable("The database is unavailable: it was locked for too long.")
        try:
            yield
        finally:
            self._writing.release()

    def prepare_commit(self, connection: Connection, durability: Durability) -> None:
        pass

    def sync(self) -> None:
        self._log.sync()

    @contextmanager
    def migration(self) -> Iterator[Connection]:
        with self._sole_process():
            with self.writer.connect() as connection:
                raw = connection.connection.dbapi_connection
                assert raw is not None
                # Kept in the file from then on; it cannot be changed inside a transaction.
                raw.execute("PRAGMA journal_mode = WAL")
            with self.turn(), self.writer.begin() as connection:
                yield connection

    @contextmanager
    def _sole_process(self) -> Iterator[None]:
        """Hold a lock beside the file: switching a new file to WAL does not honour the busy timeout."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if not self._path.exists():  # keys' hashes and prompts are nobody else's business
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise DatabaseUnavailable(f"The database is unavailable: {error.strerror}.") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


class _SharedSync:
    """Syncs SQLite's write-ahead log; those who ask while a sync is under way share the next one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = threading.Condition()
        self._asked = self._done = 0
        self._syncing = False

    def sync(self) -> None:
        """Return when everything written to the log before this call is on the disk."""
        with self._turn:
            self._asked += 1
            mine = self._asked
            while self._syncing and self._done < mine:
                self._turn.wait()
            if self._done >= mine:
                return
            self._syncing, covered = True, self._asked
        done = False
        try:
            self._sync_file()
            done = True
        finally:
            with self._turn:
                self._syncing = False
                if done:
                    self._done = covered
                self._turn.notify_all()

    def _sync_file(self) -> None:
        try:
            # Opened each time: SQLite makes a new log when the last connection of all processes was closed.
            handle = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # the log was copied into the database, which syncs both
        try:
            os.fsync(handle) if sys.platform == "darwin" else os.fdatasync(handle)
        except OSError as error:
            raise DatabaseUnavailable(f"The database is unavailable: {error.strerror}.") from error
        finally:
            os.close(handle)


class _Postgres:
    def __init__(self, url: URL) -> None:
        settings = f"-c lock_timeout={int(LOCK_TIMEOUT_S * 1000)} -c idle_in_transaction_session_timeout=60000"
        self.writer = create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            pool_size=8,
            max_overflow=12,  # a server takes a hundred connections in all, unless told otherwise
            pool_timeout=LOCK_TIMEOUT_S,
            connect_args={"connect_timeout": 5, "application_name": "retouch", "options": settings},
        )
        # The same pool; a transaction that only reads one moment never has to be repeated.
        self.reader = self.writer.execution_options(isolation_level="REPEATABLE READ")

    @contextmanager
    def turn(self) -> Iterator[None]:
        yield

    def prepare_commit(self, connection: Connection, durability: Durability) -> None:
        if durability == "eventual":
            connection.exec_driver_sql("SET LOCAL synchronous_commit = off")

    def sync(self) -> None:
        """The server has flushed each commit that asked for it, many at a time."""

    @contextmanager
    def migration(self) -> Iterator[Connection]:
        with self.writer.begin() as connection:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
            yield connection


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # SQLAlchemy says when a transaction begins, not the driver
    for pragma in ("synchronous = NORMAL", "foreign_keys = ON", "temp_store = MEMORY", "cache_size = -8000"):
        connection.execute(f"PRAGMA {pragma}")


def _prepare_sqlite_reader(connection: sqlite3.Connection, record: object) -> None:
    _prepare_sqlite(connection, record)
    connection.execute("PRAGMA query_only = ON")


def _begin_writing(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin_reading(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except ArgumentError:
        raise InvalidRequest(
            "The database must be a URL: 'sqlite:///…' or 'postgresql://…'.", field="database"
        ) from None
    if backend not in ("sqlite", "postgresql", "postgres"):
        raise InvalidRequest(f"The database must be SQLite or PostgreSQL, not '{backend}'.", field="database")
    return parsed


@contextmanager
def _named_reasons() -> Iterator[None]:
    """Turn the drivers' errors about the database itself into DatabaseUnavailable; others are our bugs."""
    try:
        yield
    except PoolTimeout as error:
        raise DatabaseUnavailable("The database is unavailable: all connections are busy.") from error
    except DBAPIError as error:
        reason = _reason(error)
        if reason is None:
            raise
        raise DatabaseUnavailable(f"The database is unavailable: {reason}.") from error


_SQLITE_REASONS = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_BUSY: "it was locked for too long",
    sqlite3.SQLITE_LOCKED: "it was locked for too long",
    sqlite3.SQLITE_READONLY: "it is read-only",
    sqlite3.SQLITE_CANTOPEN: "its file cannot be opened",
    sqlite3.SQLITE_IOERR: "its disk does not answer",
    sqlite3.SQLITE_PERM: "its file may not be opened",
    sqlite3.SQLITE_AUTH: "its file may not be opened",
    sqlite3.SQLITE_CORRUPT: "its file is damaged",
    sqlite3.SQLITE_NOTADB: "its file is not a SQLite database",
    sqlite3.SQLITE_PROTOCOL: "it was locked for too long",
}

_POSTGRES_REASONS = {
    "53100": "the disk of its server is full",
    "53300": "its server has no connection left",
    "55P03": "it was locked for too long",
    "57P01": "its server is shutting down",
    "57P03": "its server is starting",
    "25006": "it is read-only",
    "28P01": "it refused the password",
    "28000": "it refused the user",
    "3D000": "it does not exist on its server",
}


def _reason(error: DBAPIError) -> str | None:
    """Why the database cannot be used, in words for a human; None when the statement itself was wrong."""
    original = error.orig
    code = getattr(original, "sqlite_errorcode", None)
    if code is not None:
        if "no such table" in str(original):
            return "it was not set up yet"
        return _SQLITE_REASONS.get(code & 0xFF)
    state = getattr(original, "sqlstate", None)
    if state in _POSTGRES_REASONS:
        return _POSTGRES_REASONS[state]
    if state == "42P01":
        return "it was not set up yet"
    if error.connection_invalidated or type(original).__name__ in ("OperationalError", "InterfaceError"):
        return "its server does not answer"
    return f"its server answered {state}" if state and state[:2] in ("08", "40", "53", "57", "58") else None
