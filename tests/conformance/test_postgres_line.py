"""Two writers in one line at the same moment, step by step; only PostgreSQL lets that happen."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection

from retouch.accounts.keys import Account
from retouch.jobs import fair_queue, store
from retouch.jobs.job import Job
from retouch.jobs.tables import fair_share, queue_block
from tests.harness import ANNE, BEN, Deployment, HandClock

PREDICTED = store.Predicted(1.0, 1.0)

CARL = Account("carl", "carl", "")


@pytest.fixture
def world(postgres_url: str, tmp_path: Path, strict_turns: None) -> Iterator[Deployment]:
    with Deployment(tmp_path, postgres_url, model="demo", clock=HandClock()) as world:
        yield world


def enqueue(connection: Connection, pattern: Job, account: Account) -> Job:
    """A submit that is not committed yet."""
    return store.enqueue(
        connection, replace(pattern, id=str(uuid.uuid4()), account_id=account.id), weight=1, predicted=PREDICTED
    )


def while_it_waits(world: Deployment, blocked: Callable[[], object], meanwhile: Callable[[], None]) -> object:
    """Start `blocked` on a thread, do `meanwhile` once it waits for a lock, and return what it returns."""
    url = world.database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with ThreadPoolExecutor(1) as pool, psycopg.connect(url, autocommit=True) as observer:
        result = pool.submit(blocked)
        while observer.execute(waits).fetchone() is None:
            assert not result.done(), "it did not wait"
        meanwhile()
        return result.result(timeout=30)


def a_full_block_before_an_empty_one(world: Deployment) -> Job:
    """Eight jobs wait in the first block; the place of a ninth by a new account is there as well."""
    anne_s = [world.submit(ANNE) for _ in range(9)]
    for job in anne_s[4:]:
        world.service.cancel(ANNE, job.id)
    for _ in range(4):
        world.submit(BEN)
    with world.database.read() as connection:
        blocks = connection.execute(fair_queue._BLOCKS, {"of_queue": "demo"}).all()
    assert [block.waiting for block in blocks] == [8, 0]
    return anne_s[0]


def test_blocks_are_not_joined_across_one_that_has_just_been_cut_off(
    world: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fair_queue, "BLOCK_SIZE", 8)
    pattern = a_full_block_before_an_empty_one(world)

    def tidy() -> int:
        with world.database.transaction() as connection:
            return fair_queue.tidy(connection, "demo")

    with world.database.transaction() as cutting:
        enqueue(cutting, pattern, CARL)
        joined = while_it_waits(world, tidy, cutting.commit)
    assert joined == 0
    assert world.count(queue_block) == 3
    world.check_the_line()


def test_a_submit_that_waited_for_a_cut_counts_in_the_right_block(
    world: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fair_queue, "BLOCK_SIZE", 8)
    dave = Account("dave", "dave", "")
    for _ in range(3):  # so that his next turn is in the half that is cut off
        world.submit(dave)
        world.lease()
    pattern = a_full_block_before_an_empty_one(world)
    with world.database.transaction() as cutting:
        enqueue(cutting, pattern, CARL)
        while_it_waits(world, lambda: world.submit(dave), cutting.commit)
    world.check_the_line()
    assert len(world.waiting_in_order()) == 10


def test_a_share_that_is_being_used_is_not_forgotten(world: Deployment) -> None:
    pattern = world.submit(ANNE)
    world.lease()
    world.submit(BEN)
    world.submit(BEN)
    world.lease()
    world.lease()
    with world.database.transaction() as submitting:
        enqueue(submitting, pattern, ANNE)
        with world.database.transaction() as sweeping:
            fair_queue.forget_idle_shares(sweeping)
    assert world.count(fair_share) == 2
    world.check_the_line()


def test_two_claims_at_once_take_two_jobs(world: Deployment) -> None:
    first, second = world.submit(ANNE), world.submit(BEN)
    now = world.clock.now
    with world.database.transaction() as one:
        head = store.claim(one, "demo", "w1", now, 30)

        def claim() -> str:
            with world.database.transaction() as other:
                lease = store.claim(other, "demo", "w2", now, 30)
                assert lease is not None
                return lease.job.id

        assert head is not None
        assert head.job.id == first.id
        assert while_it_waits(world, claim, one.commit) == second.id  # for the block's count, not for the job
    world.check_the_line()
