"""What every kind of wake-up must do, between threads and between processes."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from retouch.database import Database
from retouch.jobs.notify import PostgresWakeUps
from retouch.jobs.wakeups import JOB_TOPIC, LocalWakeUps, Subscription, WakeUps, open_wakeups, queue_topic

LONG_S = 20.0
"""Far more than a wake-up takes; a wait that lasts as long has failed."""


@pytest.fixture
def wakeups(database: Database, tmp_path: Path) -> Iterator[WakeUps]:
    wakeups = open_wakeups(database, tmp_path)
    yield wakeups
    wakeups.close()


@contextlib.contextmanager
def subscribed(wakeups: WakeUps, *topics: str) -> Iterator[Subscription]:
    subscription = wakeups.subscribe(topics)
    while subscription.wait(0.01):  # beginning to listen may itself wake
        pass
    yield subscription
    subscription.close()


def test_the_kind_follows_the_database(wakeups: WakeUps, database: Database) -> None:
    kinds = {"sqlite": LocalWakeUps, "postgresql": PostgresWakeUps}
    assert type(wakeups) is kinds[database.dialect]


def test_a_wake_up_reaches_every_subscription_of_its_topic(wakeups: WakeUps) -> None:
    with subscribed(wakeups, "queue:a", JOB_TOPIC) as one, subscribed(wakeups, "queue:a") as two:
        wakeups.publish("queue:a")
        assert one.wait(LONG_S)
        assert two.wait(LONG_S)


def test_a_wake_up_before_the_wait_is_kept_and_many_count_as_one(wakeups: WakeUps) -> None:
    with subscribed(wakeups, JOB_TOPIC) as subscription:
        for _ in range(1000):
            wakeups.publish(JOB_TOPIC)
        assert subscription.wait(LONG_S)
        while subscription.wait(0.05):
            pass
        assert not subscription.wait(0)


def test_other_topics_do_not_wake(wakeups: WakeUps) -> None:
    with subscribed(wakeups, queue_topic("a")) as a, subscribed(wakeups, queue_topic("b")) as b:
        wakeups.publish(queue_topic("b"))
        assert b.wait(LONG_S)
        assert not a.wait(0.02)


def test_without_a_wake_up_a_wait_lasts_its_time(wakeups: WakeUps) -> None:
    with subscribed(wakeups, JOB_TOPIC) as subscription:
        begin = time.monotonic()
        assert not subscription.wait(0.05)
        assert time.monotonic() - begin >= 0.045


def test_publishing_without_a_subscriber_is_no_error(wakeups: WakeUps) -> None:
    wakeups.publish("queue:unheard")
    with subscribed(wakeups, JOB_TOPIC) as subscription:
        subscription.close()
        wakeups.publish(JOB_TOPIC)
        assert not subscription.wait(0.01)


def test_closing_ends_a_wait_that_is_under_way(wakeups: WakeUps) -> None:
    subscription = wakeups.subscribe([JOB_TOPIC])
    waiting = threading.Event()
    ended = threading.Event()

    def wait() -> None:
        waiting.set()
        while subscription.wait(LONG_S):
            pass
        ended.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert waiting.wait(LONG_S)
    subscription.close()
    assert ended.wait(LONG_S / 2)
    thread.join()
    subscription.close()


PUBLISHER = """
import sys
from pathlib import Path
from retouch.database import Database
from retouch.jobs.wakeups import open_wakeups
wakeups = open_wakeups(Database(sys.argv[1]), Path(sys.argv[2]))
{then}
"""


def in_another_process(then: str, database_url: str, folder: Path) -> None:
    script = PUBLISHER.format(then=then)
    subprocess.run([sys.executable, "-c", script, database_url, str(folder)], check=True, timeout=60)


def test_a_wake_up_crosses_processes(wakeups: WakeUps, database_url: str, tmp_path: Path) -> None:
    with subscribed(wakeups, "queue:demo") as subscription:
        in_another_process("wakeups.publish('queue:demo'); wakeups.close()", database_url, tmp_path)
        assert subscription.wait(LONG_S)


def woken_within(subscription: Subscription, publish: Callable[[], None], timeout_s: float = LONG_S) -> bool:
    """Publish until it arrives, for what may need a moment to listen again."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        publish()
        if subscription.wait(0.05):
            return True
    return False


# --- local sockets


def test_the_sockets_of_a_dead_process_are_removed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/unused.db"
    in_another_process("wakeups.subscribe(['job']); import os; os._exit(0)", url, tmp_path)
    wakeups = LocalWakeUps(tmp_path)
    (left_behind,) = [path for path in wakeups._folder.rglob("*") if path.is_socket()]
    wakeups.publish(JOB_TOPIC)
    assert not left_behind.exists()
    wakeups.close()


def test_a_data_folder_with_a_long_name_works_as_well(tmp_path: Path) -> None:
    folder = tmp_path / ("long-" * 30)
    folder.mkdir()
    wakeups = LocalWakeUps(folder)
    with subscribed(wakeups, JOB_TOPIC) as subscription:
        in_another_process("wakeups.publish('job')", f"sqlite:///{tmp_path}/unused.db", folder)
        assert subscription.wait(LONG_S)
    wakeups.close()


def test_where_no_socket_can_be_made_waiting_is_polling(tmp_path: Path) -> None:
    (tmp_path / "wakeups").write_text("in the way")
    wakeups = LocalWakeUps(tmp_path)
    with subscribed(wakeups, JOB_TOPIC) as subscription:
        wakeups.publish(JOB_TOPIC)
        assert subscription.wait(0.02) in (True, False)
    wakeups.close()


# --- PostgreSQL


def test_notifications_come_through_a_broken_connection(postgres_url: str) -> None:
    wakeups = PostgresWakeUps(postgres_url)
    with subscribed(wakeups, JOB_TOPIC) as subscription:
        wakeups.publish(JOB_TOPIC)
        assert subscription.wait(LONG_S)
        with psycopg.connect(postgres_url, autocommit=True) as admin:
            ended = admin.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE application_name = 'retouch wake-ups' AND datname = current_database()"
            ).fetchone()
        assert ended == (2,)
        assert woken_within(subscription, lambda: wakeups.publish(JOB_TOPIC))
    wakeups.close()


def test_a_server_that_is_away_breaks_no_subscriber(tmp_path: Path) -> None:
    wakeups = PostgresWakeUps("postgresql://nobody@127.0.0.1:9/none")
    wakeups.publish(JOB_TOPIC)
    wakeups.close()
