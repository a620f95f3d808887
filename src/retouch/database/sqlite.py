"""SQLite: writers in this process take turns, and a commit's wait for the disk is shared.

SQLite allows one writer at a time. Writers of this process queue on a lock instead of on SQLite's retries
with growing sleeps, which would put hundreds of milliseconds on the slowest of eight callers; the writers of
other processes are met by BEGIN IMMEDIATE and the busy timeout. Readers never wait (WAL).
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, Connection, create_engine, event
from sqlalchemy.exc import DBAPIError

from retouch.database.backend import LOCK_TIMEOUT_S, Durability
from retouch.errors import DatabaseUnavailable, InvalidRequest

_REASONS = {
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


class Sqlite:
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
        event.listen(self.writer, "connect", _prepare)
        event.listen(self.reader, "connect", _prepare_reader)
        event.listen(self.writer, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        event.listen(self.reader, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))

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

    def unavailable_reason(self, error: DBAPIError) -> str | None:
        if "no such table" in str(error.orig):
            return "it was not set up yet"
        return _REASONS.get(getattr(error.orig, "sqlite_errorcode", 0) & 0xFF)

    @contextmanager
    def _sole_process(self) -> Iterator[None]:
        """Hold a lock beside the file: switching a new file to WAL does not honour the busy timeout."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if not self._path.exists():  # keys' hashes and prompts are for the owner of the file only
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise DatabaseUnavailable(f"The database is unavailable: {error.strerror}.") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


class _SharedSync:
    """Syncs SQLite's write-ahead log; callers who come while a sync is under way share the next one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = threading.Condition()
        self._wanted = self._done = 0
        self._syncing = False

    def sync(self) -> None:
        """Return when everything written to the log before this call is on the disk."""
        with self._turn:
            self._wanted += 1
            mine = self._wanted
            while self._syncing and self._done < mine:
                self._turn.wait()
            if self._done >= mine:
                return
            self._syncing, covered = True, self._wanted
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


def _prepare(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # SQLAlchemy says when a transaction begins, not the driver
    for pragma in ("synchronous = NORMAL", "foreign_keys = ON", "temp_store = MEMORY", "cache_size = -8000"):
        connection.execute(f"PRAGMA {pragma}")


def _prepare_reader(connection: sqlite3.Connection, record: object) -> None:
    _prepare(connection, record)
    connection.execute("PRAGMA query_only = ON")
