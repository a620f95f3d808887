"""What the stations describe their tables with: column types and inserts that mean the same in both databases."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, Connection, DateTime, Dialect, Integer, MetaData, Table, Text, TypeDecorator
from sqlalchemy.dialects import postgresql, sqlite

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
