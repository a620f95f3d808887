"""PostgreSQL: it orders its writers itself and flushes many commits at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import URL, Connection, create_engine
from sqlalchemy.exc import DBAPIError

from retouch.database.backend import LOCK_TIMEOUT_S, Durability

MIGRATION_LOCK = 0x7265746F75636800
"""Advisory lock held while the schema is brought up to date ("retouch" in hexadecimal)."""

_REASONS = {
    "53100": "the disk of its server is full",
    "53300": "its server has no connection left",
    "55P03": "it was locked for too long",
    "57P01": "its server is shutting down",
    "57P03": "its server is starting",
    "25006": "it is read-only",
    "28P01": "it refused the password",
    "28000": "it refused the user",
    "3D000": "it does not exist on its server",
    "42P01": "it was not set up yet",
}


class Postgres:
    def __init__(self, url: URL) -> None:
        settings = f"-c lock_timeout={int(LOCK_TIMEOUT_S * 1000)} -c idle_in_transaction_session_timeout=60000"
        self.writer = create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            pool_size=8,
            max_overflow=12,  # a server takes a hundred connections in all, unless it is configured otherwise
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
        """Nothing to wait for: the server has flushed each commit that was not `eventual`, many at a time."""

    def unavailable_reason(self, error: DBAPIError) -> str | None:
        state = getattr(error.orig, "sqlstate", None)
        if state in _REASONS:
            return _REASONS[state]
        if error.connection_invalidated or type(error.orig).__name__ in ("OperationalError", "InterfaceError"):
            return "its server does not answer"
        return f"its server answered {state}" if state and state[:2] in ("08", "40", "53", "57", "58") else None

    @contextmanager
    def migration(self) -> Iterator[Connection]:
        with self.writer.begin() as connection:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
            yield connection
