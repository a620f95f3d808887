"""What each database does when it is new, busy, full, read-only or gone."""

from __future__ import annotations

import multiprocessing
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, select, text

import retouch.accounts.tables
import retouch.jobs.tables  # noqa: F401  both fill the metadata
from retouch import migrations
from retouch.accounts.ledger import KeyUsage, Ledger
from retouch.database import Database, metadata
from retouch.database import sqlite as sqlite_backend
from retouch.errors import DatabaseUnavailable, InvalidRequest
from retouch.jobs.job import JobState
from retouch.jobs.tables import job
from retouch.migrations import migrate
from tests.databases import PostgresServer, shared_server
from tests.harness import OUTPUT, USAGE, Deployment, HandClock


@pytest.fixture
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database of which nothing exists yet but, on PostgreSQL, its name."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/new/folder/jobs.db"
        return
    server = shared_server()
    server.run("CREATE DATABASE empty_one")
    yield server.url_of("empty_one")
    server.drop(server.url_of("empty_one"))


both = pytest.mark.parametrize("empty_url", ["sqlite", "postgresql"], indirect=True)


# --- schema


def test_the_migrations_make_the_tables_that_the_code_describes(database: Database) -> None:
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        inspector = inspect(connection)
        for table in metadata.sorted_tables:
            described = {str(check.name) for check in table.constraints if "check" in type(check).__name__.lower()}
            assert {check["name"] for check in inspector.get_check_constraints(table.name)} == described
            described = {str(index.name) for index in table.indexes}
            assert {index["name"] for index in inspector.get_indexes(table.name)} >= described


def test_the_newest_migration_is_the_one_the_program_looks_for() -> None:
    script = ScriptDirectory(str(Path(migrations.__file__).parent))
    assert script.get_current_head() == migrations.HEAD


@both
def test_migrating_twice_changes_nothing(empty_url: str) -> None:
    for _ in range(2):
        database = Database(empty_url)
        migrate(database)
        with database.read() as connection:
            assert migrations.current(connection) == migrations.HEAD
        database.close()


@both
def test_usage_before_the_sums_were_kept_is_in_them(empty_url: str) -> None:
    if empty_url.startswith("sqlite"):
        Path(empty_url.removeprefix("sqlite:///")).parent.mkdir(parents=True)
    database = Database(empty_url)
    with database.transaction() as connection:
        migrations.upgrade(connection, "0007")
        for number, account in enumerate(("anne", "anne", "ben")):
            connection.execute(
                text(
                    "INSERT INTO usage_entry (job_id, account_id, key_id, model, images, pixels, steps, device_ms, "
                    f"price_microusd, created_at) VALUES ('{number}', '{account}', '', 'm', 2, 9, 4, 300, 70, "
                    "'2026-01-01')"
                )
            )
    migrate(database)
    assert Ledger(database).by_key() == (KeyUsage("anne", 2, 4, 600, 140), KeyUsage("ben", 1, 2, 300, 70))
    database.close()


def _migrate(url: str) -> None:
    database = Database(url)
    migrate(database)
    database.close()


@both
def test_four_processes_may_migrate_at_once(empty_url: str) -> None:
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_migrate, args=(empty_url,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]


@both
def test_a_database_that_was_not_set_up_says_so(empty_url: str) -> None:
    if empty_url.startswith("sqlite"):
        Path(empty_url.removeprefix("sqlite:///")).parent.mkdir(parents=True)
    database = Database(empty_url)
    with pytest.raises(DatabaseUnavailable, match="not set up"), database.read() as connection:
        connection.execute(select(job))
    database.close()


def test_a_database_of_a_newer_program_is_refused(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseUnavailable, match="newer"):
        migrate(database)


@pytest.mark.parametrize("url", ["nonsense", "mysql://x/y", "sqlite://", "sqlite:///:memory:"])
def test_a_url_that_cannot_be_used_is_refused_by_name(url: str) -> None:
    with pytest.raises(InvalidRequest, match=r"SQLite|sqlite"):
        Database(url)


def test_all_statements_of_a_read_see_one_moment(world: Deployment) -> None:
    world.submit()
    with world.database.read() as connection:
        assert len(connection.execute(select(job.c.id)).all()) == 1
        world.submit()
        assert len(connection.execute(select(job.c.id)).all()) == 1
    assert world.count(job) == 2


def test_a_broken_transaction_leaves_nothing_and_frees_the_writer(database: Database) -> None:
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), database.transaction() as connection:  # noqa: PT012
            connection.execute(text("DELETE FROM alembic_version"))
            _ = 1 / 0
    with database.read() as connection:
        assert migrations.current(connection) == migrations.HEAD


def test_a_wrong_statement_is_our_bug_and_not_an_outage(database: Database) -> None:
    with pytest.raises(Exception, match="nothing_like_it") as caught, database.read() as connection:
        connection.execute(text("SELECT nothing_like_it FROM job"))
    assert not isinstance(caught.value, DatabaseUnavailable)


# --- trouble


def test_a_full_disk_refuses_new_jobs_and_loses_none(sqlite_world: Deployment) -> None:
    world = sqlite_world
    with world.database.transaction() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 20}")
    accepted: list[str] = []
    with pytest.raises(DatabaseUnavailable, match="the disk is full"):
        accepted.extend(world.submit().id for _ in range(1000))
    assert accepted
    assert [each.id for each in world.waiting_in_order()] == accepted
    with world.database.transaction() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 100000")
    world.check_the_line()
    for job_id in accepted:
        lease = world.lease()
        assert lease.job.id == job_id
        assert world.service.finish(lease, OUTPUT, USAGE).state is JobState.SUCCEEDED


def test_a_database_locked_by_another_process_for_too_long_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_backend, "LOCK_TIMEOUT_S", 0.1)
    _migrate(f"sqlite:///{tmp_path}/jobs.db")
    database = Database(f"sqlite:///{tmp_path}/jobs.db")
    other = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseUnavailable, match="locked for too long"), database.transaction():
        pass
    with database.read() as connection:
        assert migrations.current(connection) == migrations.HEAD  # readers do not wait
    other.execute("ROLLBACK")
    with database.transaction():
        pass
    other.close()
    database.close()


@pytest.mark.parametrize(
    ("content", "reason"), [(b"not a database " * 100, "not a SQLite database"), (None, "cannot be opened")]
)
def test_a_file_that_is_no_database_says_so(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "jobs.db"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    database = Database(f"sqlite:///{path}")
    with pytest.raises(DatabaseUnavailable, match=reason):
        migrate(database)
    with pytest.raises(DatabaseUnavailable, match=reason), database.read() as connection:
        connection.execute(select(job))
    database.close()


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    database = Database(f"sqlite:///{tmp_path}/file/jobs.db")
    with pytest.raises(DatabaseUnavailable, match=r"Not a directory|File exists"):
        migrate(database)
    database.close()


def test_a_read_only_database_says_so(database: Database) -> None:
    forbid = "PRAGMA query_only = ON" if database.dialect == "sqlite" else "SET TRANSACTION READ ONLY"
    with pytest.raises(DatabaseUnavailable, match="read-only"), database.transaction() as connection:  # noqa: PT012
        connection.exec_driver_sql(forbid)
        connection.execute(text("DELETE FROM alembic_version"))


def test_a_server_that_vanishes_is_named_and_comes_back_with_every_job(tmp_path: Path) -> None:
    server = PostgresServer()
    world = Deployment(tmp_path, server.url_of("template_of_tests"), model="demo", clock=HandClock())
    first, second = world.submit(), world.submit()
    lease = world.lease()
    server.stop()
    for verb in (
        world.submit,
        lambda: world.job(first.id),
        lambda: world.service.renew(lease, 30),
        lambda: world.service.finish(lease, OUTPUT, USAGE),
        world.service.sweep,
    ):
        with pytest.raises(DatabaseUnavailable, match="The database is unavailable: its server"):
            verb()
    reason = world.service.ready()
    assert reason is not None
    assert "server" in reason
    server.start()
    assert world.service.finish(lease, OUTPUT, USAGE).id == first.id
    assert world.lease().job.id == second.id
    world.close()
    world.database.close()
    server.remove()


def test_a_server_that_never_was_is_named() -> None:
    database = Database("postgresql://nobody@127.0.0.1:9/none")
    with pytest.raises(DatabaseUnavailable, match="does not answer"):
        migrate(database)
    database.close()
