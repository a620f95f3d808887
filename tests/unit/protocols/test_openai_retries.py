"""How long an edit is kept whose caller has hung up, and what a repeated call finds. Timers fire by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from retouch.accounts.keys import Account
from retouch.jobs.job import Job
from retouch.protocols.openai import routes
from retouch.protocols.openai.routes import MARGIN_S, Retries, pause_before_retry_s
from tests.harness import ANNE, BEN, Deployment


@dataclass
class Timers:
    """What `call_later` of the loop was given and is not cancelled: seconds and handle."""

    set: list[tuple[float, asyncio.TimerHandle]] = field(default_factory=list)

    def pending_s(self) -> list[float]:
        return [seconds for seconds, handle in self.set if not handle.cancelled()]

    def fire(self) -> None:
        for _, handle in self.set:
            if not handle.cancelled():
                handle._run()
        self.set.clear()


@dataclass
class Calls:
    """Retries over a real service, with timers that wait to be fired."""

    world: Deployment
    retries: Retries
    timers: Timers
    cancelled: list[str]

    async def submit(self) -> Job:
        return self.world.submit()

    async def arrive(self, attempt: int, account: Account = ANNE) -> str:
        return (await self.retries.join_or_submit(account, "digest", attempt, self.submit)).id


@pytest.fixture
async def calls(sqlite_world: Deployment, monkeypatch: pytest.MonkeyPatch) -> Calls:
    timers, cancelled, loop = Timers(), [], asyncio.get_running_loop()

    def call_later(seconds: float, callback: Callable[..., object], *arguments: object) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(loop.time() + seconds, callback, arguments, loop)
        timers.set.append((seconds, handle))
        return handle

    async def cancel(_: Account, job_id: str) -> None:
        cancelled.append(job_id)

    monkeypatch.setattr(loop, "call_later", call_later)
    return Calls(sqlite_world, Retries(cancel), timers, cancelled)


@pytest.mark.parametrize("attempt", range(8))
async def test_an_edit_is_kept_until_after_the_next_try_of_the_sdks(calls: Calls, attempt: int):
    job = await calls.arrive(attempt)
    calls.retries.leave(job, answered=False)
    assert calls.timers.pending_s() == [min(0.5 * 2**attempt, 8) + MARGIN_S]
    assert await calls.arrive(attempt + 1) == job
    assert calls.timers.pending_s() == []


async def test_an_edit_is_kept_for_the_pause_that_its_answer_asks_for(calls: Calls):
    job = await calls.arrive(0)
    calls.retries.leave(job, answered=False, retry_after_s=5.0)
    assert calls.timers.pending_s() == [5 + MARGIN_S]
    assert await calls.arrive(1) == job
    calls.retries.leave(job, answered=False)
    assert calls.timers.pending_s() == [pause_before_retry_s(1) + MARGIN_S]


async def test_an_edit_whose_caller_does_not_return_is_stopped(calls: Calls):
    job = await calls.arrive(0)
    calls.retries.leave(job, answered=False)
    calls.timers.fire()
    await asyncio.sleep(0)
    assert calls.cancelled == [job]
    assert await calls.arrive(1) != job


async def test_no_edit_is_given_up_while_a_retry_of_its_account_is_uploaded(calls: Calls):
    job = await calls.arrive(0)
    calls.retries.leave(job, answered=False)
    with calls.retries.uploading(BEN, 1):
        assert len(calls.timers.pending_s()) == 1
    with calls.retries.uploading(ANNE, 3):
        assert calls.timers.pending_s() == []
        with calls.retries.uploading(ANNE, 1):
            pass
        assert calls.timers.pending_s() == []
    assert calls.timers.pending_s() == [pause_before_retry_s(3) + MARGIN_S]


async def test_uploads_of_others_do_not_keep_an_edit_for_ever(calls: Calls, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(routes, "LONGEST_KEPT_S", 0.5)
    job = await calls.arrive(0)
    calls.retries.leave(job, answered=False)
    with calls.retries.uploading(ANNE, 1):
        pass
    [seconds] = calls.timers.pending_s()
    assert seconds <= 0.5


async def test_a_caller_who_leaves_during_another_upload_is_waited_for_from_its_end(calls: Calls):
    job = await calls.arrive(0)
    with calls.retries.uploading(ANNE, 1):
        calls.retries.leave(job, answered=False)
        assert calls.timers.pending_s() == []
    assert calls.timers.pending_s() == [pause_before_retry_s(1) + MARGIN_S]


async def test_a_retry_joins_an_edit_that_is_still_being_submitted(calls: Calls):
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> Job:
        begun.set()
        await go_on.wait()
        return calls.world.submit()

    first = asyncio.create_task(calls.retries.join_or_submit(ANNE, "digest", 0, slow))
    await begun.wait()
    second = asyncio.create_task(calls.arrive(1))
    go_on.set()
    assert (await first).id == await second


async def test_two_first_tries_are_two_edits_and_an_answered_one_is_not_found_again(calls: Calls):
    one, other = await calls.arrive(0), await calls.arrive(0)
    assert one != other
    calls.retries.leave(one, answered=True)
    assert await calls.arrive(1) == other
    for _ in range(2):
        calls.retries.leave(other, answered=True)
    assert await calls.arrive(1) not in (one, other)
    assert await calls.arrive(1, BEN) not in (one, other)


async def test_an_edit_that_no_retry_can_name_is_stopped_at_once(calls: Calls):
    job = calls.world.submit()
    calls.retries.wait_once(ANNE, job)
    calls.retries.leave(job.id, answered=False)
    await asyncio.sleep(0)
    assert calls.cancelled == [job.id]
