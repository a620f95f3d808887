"""Brings a database's schema up to date, step by step, with Alembic; the steps are in `versions/`.

No `alembic.ini`: the program runs it, in a transaction of the database that one process at a time gets. A step is never
edited once released. It does not decide when to migrate.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from retouch.database import Database
from retouch.errors import DatabaseUnavailable

HEAD = "0010"
"""The newest step; kept here so that an up-to-date database starts without loading Alembic."""


def migrate(database: Database) -> None:
    """Bring the schema up to date. Several processes may call it at the same time. Raises DatabaseUnavailable."""
    with database.migration() as connection:
        upgrade(connection)


def upgrade(connection: Connection, to: str = HEAD) -> None:
    """Apply the missing steps, as far as `to`, inside the caller's transaction.

    Raises DatabaseUnavailable for a schema that only a newer program knows.
    """
    version = current(connection)
    if version == HEAD:
        return
    if version is not None and version > HEAD:
        raise DatabaseUnavailable(f"The database was made by a newer version of Retouch (schema {version}).")
    from alembic import command  # only loaded when there is something to do
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, to)


def current(connection: Connection) -> str | None:
    """The newest step that was applied, or None for an empty database."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    version = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if version is None else str(version)
