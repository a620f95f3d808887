"""Waiting for jobs: many waiters, few queries, nothing missed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import event

from retouch import watch as watch_module
from retouch.errors import DatabaseUnavailable, InternalError, Unavailable, UnknownJob
from retouch.jobs.job import Job, JobEvent, JobState
from retouch.watch import Watch
from tests.harness import ANNE, OUTPUT, USAGE, Deployment

LONG_S = 20.0
NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def world(sqlite_world: Deployment) -> Deployment:
    return sqlite_world


@pytest_asyncio.fixture
async def watch(world: Deployment) -> AsyncIterator[Watch]:
    watch = Watch(world.service)
    await watch.start()
    yield watch
    await watch.stop()


async def until(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG_S):
        while not fact():  # noqa: ASYNC110  there is no event for it
            await asyncio.sleep(0.001)


async def eventually_waited_for(watch: Watch, count: int) -> None:
    await until(lambda: sum(map(len, watch._waits.values())) >= count)


def hide(path: Path) -> None:
    """Put a folder where the database file was."""
    path.rename(path.with_suffix(".away"))
    path.mkdir()


def bring_back(path: Path) -> None:
    path.rmdir()
    path.with_suffix(".away").rename(path)


def finish_one(world: Deployment) -> Job:
    return world.service.finish(world.lease(), OUTPUT, USAGE)


def count_queries(world: Deployment) -> list[str]:
    seen: list[str] = []
    engine = world.database._backend.reader
    event.listen(engine, "before_cursor_execute", lambda *arguments: seen.append(arguments[2]))
    return seen


async def test_a_waiter_gets_the_job_when_it_has_ended(world: Deployment, watch: Watch) -> None:
    waiting = [asyncio.create_task(watch.wait(world.submit().id, timeout_s=LONG_S)) for _ in range(3)]
    await eventually_waited_for(watch, 3)
    for task in waiting:
        done = await asyncio.to_thread(finish_one, world)
        assert await task == done


async def test_a_job_that_has_ended_already_is_not_waited_for(world: Deployment, watch: Watch) -> None:
    done = world.service.cancel(ANNE, world.submit().id)
    assert await watch.wait(done.id, timeout_s=LONG_S) == done


async def test_a_wait_ends_with_its_time_and_leaves_the_job_alone(world: Deployment, watch: Watch) -> None:
    waiting = world.submit()
    with pytest.raises(TimeoutError):
        await watch.wait(waiting.id, timeout_s=0.05)
    assert world.job(waiting.id) == waiting
    assert watch._waits == {}


async def test_waiting_for_no_job_is_an_error(watch: Watch) -> None:
    for job_id in (NOBODY, "nonsense"):
        with pytest.raises(UnknownJob):
            await watch.wait(job_id, timeout_s=LONG_S)
        with pytest.raises(UnknownJob):
            await watch.snapshot(job_id)
        with pytest.raises(UnknownJob):
            await anext(watch.changes(job_id))


async def test_a_lost_wake_up_costs_a_tick_and_no_more(
    world: Deployment, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "TICK_S", 0.05)
    monkeypatch.setattr(world.wakeups, "publish", lambda topic: None)
    waiting = asyncio.create_task(watch.wait(world.submit().id, timeout_s=LONG_S))
    await eventually_waited_for(watch, 1)
    await asyncio.to_thread(finish_one, world)
    assert (await waiting).state is JobState.SUCCEEDED


async def test_a_thousand_waiters_cost_a_few_queries(world: Deployment, watch: Watch) -> None:
    jobs = [world.submit().id for _ in range(20)]
    waiting = [asyncio.create_task(watch.wait(jobs[number % 20], timeout_s=LONG_S)) for number in range(1000)]
    await eventually_waited_for(watch, 1000)
    queries = count_queries(world)
    for _ in jobs:
        await asyncio.to_thread(finish_one, world)
    assert all(job.state is JobState.SUCCEEDED for job in await asyncio.gather(*waiting))
    assert len(queries) < 150  # 20 leases look once each, and each end costs at most two ticks of two


async def follow(watch: Watch, job_id: str, after: int = 0) -> list[JobEvent]:
    return [event async for batch in watch.changes(job_id, after) for event in batch]


async def test_changes_are_seen_once_each_in_order_until_the_end(world: Deployment, watch: Watch) -> None:
    job_id = world.submit().id
    readers = [asyncio.create_task(follow(watch, job_id)) for _ in range(3)]

    def run() -> None:
        lease = world.lease()
        for step in range(1, 21):
            world.service.progress(lease, step=step, steps=20, logs=[f"step {step}"])
        world.service.finish(lease, OUTPUT, USAGE)

    await asyncio.to_thread(run)
    history = list(world.service.events(job_id))
    assert [await reader for reader in readers] == [history] * 3
    assert await follow(watch, job_id) == history
    assert await follow(watch, job_id, after=history[10].id) == history[11:]
    assert await follow(watch, job_id, after=history[-1].id) == []
    assert watch._followers == {}


async def test_a_reader_that_goes_away_is_forgotten(world: Deployment, watch: Watch) -> None:
    changes = watch.changes(world.submit().id)
    await anext(changes)
    await changes.aclose()
    assert watch._followers == {}


async def test_fifty_pollers_of_one_job_share_a_query(world: Deployment, watch: Watch) -> None:
    ahead, job = world.submit(), world.submit()
    queries = count_queries(world)
    snapshots = await asyncio.gather(*(watch.snapshot(job.id) for _ in range(50)))
    assert [each[:2] for each in snapshots] == [(job, 1)] * 50
    assert len(queries) <= 6
    world.service.cancel(ANNE, ahead.id)
    async with asyncio.timeout(LONG_S):
        while (await watch.snapshot(job.id))[1] == 1:  # a snapshot is shared for a moment
            pass
    assert (await watch.snapshot(job.id))[:2] == (job, 0)


async def test_pollers_of_many_jobs_share_queries_for_the_rows(world: Deployment, watch: Watch) -> None:
    jobs = [world.submit() for _ in range(30)]
    queries = count_queries(world)
    snapshots = await asyncio.gather(*(watch.snapshot(job.id) for job in jobs))
    assert [position for _, position, *_ in snapshots] == list(range(30))
    assert sum(query.startswith("SELECT job.sequence, job.id") for query in queries) <= 3


async def test_stopping_ends_the_waits(world: Deployment) -> None:
    watch = Watch(world.service)
    await watch.start()
    waiting = asyncio.create_task(watch.wait(world.submit().id))
    await eventually_waited_for(watch, 1)
    await watch.stop()
    await watch.stop()
    with pytest.raises(Unavailable, match="stopping"):
        await waiting


async def test_waiters_bear_a_database_that_is_away_for_a_moment_and_are_told_when_it_stays_away(
    world: Deployment, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "TICK_S", 0.02)
    waiting = asyncio.create_task(watch.wait(world.submit().id))
    await eventually_waited_for(watch, 1)
    path = Path(str(world.database.url.database))
    world.database.close()
    hide(path)
    await until(lambda: watch._failing_since is not None)
    assert not waiting.done()
    bring_back(path)
    await until(lambda: watch._failing_since is None)
    monkeypatch.setattr(watch_module, "PATIENCE_S", 0.0)
    world.database.close()
    hide(path)
    with pytest.raises(DatabaseUnavailable):
        await waiting


async def test_a_bug_in_a_look_is_told_to_those_who_wait_and_the_next_look_works(
    world: Deployment, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = world.submit()
    with monkeypatch.context() as bug:
        bug.setattr(world.service, "have_ended", lambda _: {}[NOBODY])
        with pytest.raises(InternalError):
            await watch.wait(waiting.id, timeout_s=LONG_S)
    again = asyncio.create_task(watch.wait(waiting.id, timeout_s=LONG_S))
    done = await asyncio.to_thread(finish_one, world)
    assert await again == done


async def test_a_bug_in_a_snapshot_is_told_to_those_who_asked(
    world: Deployment, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = world.submit()
    with monkeypatch.context() as bug:
        bug.setattr(world.service, "get_many", lambda _: {}[NOBODY])
        with pytest.raises(KeyError):
            await watch.snapshot(job.id)
    assert (await watch.snapshot(job.id))[0] == job
