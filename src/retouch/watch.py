"""Async waiting for jobs: any number of waiters, one query per tick for all of them.

A thread listens for wake-ups and brings the next tick forward; without any, ticks come once a second. Reads go
through the service, on threads of this module. It changes no job.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from retouch.errors import DatabaseUnavailable, InternalError, RetouchError, Unavailable, UnknownJob
from retouch.estimates import Snapshot
from retouch.jobs.job import FINAL_STATES, Job, JobEvent
from retouch.jobs.wakeups import JOB_TOPIC, Subscription
from retouch.service import Service

TICK_S = 1.0
"""Longest time between two looks while there are waiters: what a lost wake-up costs."""

PAUSE_S = 0.002
REST = 2
"""After a look at least PAUSE_S passes and REST times as long as it took, so that a storm of wake-ups keeps the
database busy for at most a third of the time, and a single edit is not kept waiting.
"""

FRESH_S = 0.05
"""How long a snapshot answers further readers."""

PATIENCE_S = 5.0
"""How long waiters are kept waiting while the database is away, before that is raised."""

logger = structlog.get_logger(__name__)

_Result = TypeVar("_Result")
_Member = TypeVar("_Member", bound=Hashable)


@dataclass(eq=False)
class _Follower:
    """One reader of a job's events: what it has seen, and what it has not taken yet."""

    after: int
    news: asyncio.Queue[tuple[JobEvent, ...] | RetouchError] = field(default_factory=asyncio.Queue)


class Watch:
    """Waits on behalf of one event loop. Start it in the loop that uses it, and stop it there."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._waits: dict[str, set[asyncio.Future[Job]]] = {}
        self._followers: dict[str, set[_Follower]] = {}
        self._failing_since: float | None = None
        self._snapshots = _Snapshots(lambda job_ids: self._in_thread(self._service.get_many, job_ids))
        self._nudge = asyncio.Event()
        self._threads: ThreadPoolExecutor | None = None
        self._subscription: Subscription | None = None
        self._listener: threading.Thread | None = None
        self._ticker: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to listen and to tick."""
        loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="watch")
        self._subscription = subscription = self._service.wakeups.subscribe([JOB_TOPIC])
        stopped = threading.Event()

        def listen() -> None:
            while not stopped.is_set():
                if subscription.wait(TICK_S) and not stopped.is_set():
                    with suppress(RuntimeError):  # the loop was closed meanwhile
                        loop.call_soon_threadsafe(self._nudge.set)

        self._stopped = stopped
        self._listener = threading.Thread(target=listen, name="watch-wakeups", daemon=True)
        self._listener.start()
        self._ticker = asyncio.create_task(self._tick_for_ever())

    async def stop(self) -> None:
        """Stop ticking; those who still wait get Unavailable. Stopping twice is no error."""
        if self._ticker is None:
            return
        assert self._subscription is not None
        assert self._listener is not None
        assert self._threads is not None
        ticker, self._ticker = self._ticker, None
        ticker.cancel()
        with suppress(asyncio.CancelledError):
            await ticker
        self._stopped.set()
        self._subscription.close()
        self._raise_in_all(Unavailable("The server is stopping; the job goes on without it."))
        await asyncio.to_thread(self._listener.join)
        self._threads.shutdown(wait=False)

    async def wait(self, job_id: str, *, timeout_s: float | None = None) -> Job:
        """The job once it has ended. Raises TimeoutError, UnknownJob, DatabaseUnavailable.

        timeout_s None waits for as long as it takes. Giving up waiting does not touch the job.
        """
        ended: asyncio.Future[Job] = asyncio.get_running_loop().create_future()
        self._waits.setdefault(job_id, set()).add(ended)
        self._nudge.set()
        try:
            async with asyncio.timeout(timeout_s):
                return await ended
        finally:
            _discard(self._waits, job_id, ended)

    async def changes(self, job_id: str, after: int = 0) -> AsyncIterator[tuple[JobEvent, ...]]:
        """The job's events with an id above `after`, as they come, until it has ended.

        Raises UnknownJob at the first step, DatabaseUnavailable when the database stays away.
        """
        job = await self._in_thread(self._service.get_any, job_id)
        follower = _Follower(after)
        self._followers.setdefault(job_id, set()).add(follower)
        try:
            # Registered before this read, so nothing falls between it and the first tick.
            known = await self._in_thread(lambda: self._service.events(job_id, after=after))
            if known:
                follower.after = known[-1].id
                yield known
            if job.state.final or _says_ended(known):
                return
            self._nudge.set()
            while True:
                news = await follower.news.get()
                if isinstance(news, RetouchError):
                    raise news
                fresh = tuple(event for event in news if event.id > follower.after)
                if fresh:
                    follower.after = fresh[-1].id
                    yield fresh
                if _says_ended(fresh):
                    return
        finally:
            _discard(self._followers, job_id, follower)

    async def snapshot(self, job_id: str) -> Snapshot:
        """The job, its position and its time, at most FRESH_S old; any number of callers cost one query. UnknownJob."""
        return await self._snapshots.get(job_id)

    async def _in_thread(self, function: Callable[..., _Result], *arguments: object) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    async def _tick_for_ever(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._nudge.wait()
            self._nudge.clear()
            began = time.monotonic()
            if not self._waits and not self._followers:
                continue
            try:
                await self._tick()
                self._failing_since = None
            except DatabaseUnavailable as error:
                if self._failing_since is None:
                    self._failing_since = began
                if time.monotonic() - self._failing_since >= PATIENCE_S:
                    self._raise_in_all(error)
            except Exception:
                # A ticker that died of a bug would leave every later caller waiting for ever.
                logger.exception("a look at the waited jobs failed by a bug")
                self._raise_in_all(InternalError("Something went wrong inside the server; it has been logged."))
            await asyncio.sleep(max(PAUSE_S, REST * (time.monotonic() - began)))

    async def _tick(self) -> None:
        waited = tuple(self._waits)
        followed = {job_id: min(each.after for each in all_of) for job_id, all_of in self._followers.items()}
        ended, missing, news = await self._in_thread(self._look, waited, followed)
        for job in ended:
            for wait in self._waits.get(job.id, ()):
                if not wait.done():
                    wait.set_result(job)
        for job_id in missing:
            for wait in self._waits.get(job_id, ()):
                if not wait.done():
                    wait.set_exception(UnknownJob("There is no such job."))
        by_job: dict[str, list[JobEvent]] = {}
        for event in news:
            by_job.setdefault(event.job_id, []).append(event)
        for job_id, batch in by_job.items():
            for follower in self._followers.get(job_id, ()):
                follower.news.put_nowait(tuple(batch))

    def _look(
        self, waited: tuple[str, ...], followed: Mapping[str, int]
    ) -> tuple[tuple[Job, ...], tuple[str, ...], tuple[JobEvent, ...]]:
        """On a thread: the waited jobs that have ended, those that do not exist, and the followed jobs' news."""
        known = self._service.have_ended(waited) if waited else {}
        over = [job_id for job_id, ended in known.items() if ended]
        jobs = tuple(self._service.get_jobs(over).values()) if over else ()
        missing = tuple(job_id for job_id in waited if job_id not in known)
        return jobs, missing, self._service.events_many(followed)

    def _raise_in_all(self, error: RetouchError) -> None:
        for waits in self._waits.values():
            for wait in waits:
                if not wait.done():
                    wait.set_exception(error)
        for followers in self._followers.values():
            for follower in followers:
                follower.news.put_nowait(error)


class _Snapshots:
    """Answers many readers of jobs with few queries: those who come while a query runs share the next one."""

    def __init__(self, read: Callable[[list[str]], Awaitable[Mapping[str, Snapshot]]]) -> None:
        self._read = read
        self._fresh: dict[str, tuple[float, Snapshot]] = {}
        self._wanted: dict[str, asyncio.Future[Snapshot]] = {}
        self._reader: asyncio.Task[None] | None = None

    async def get(self, job_id: str) -> Snapshot:
        until, snapshot = self._fresh.get(job_id, (0.0, None))
        if snapshot is not None and time.monotonic() < until:
            return snapshot
        answer = self._wanted.get(job_id)
        if answer is None:
            answer = self._wanted[job_id] = asyncio.get_running_loop().create_future()
            if self._reader is None:
                self._reader = asyncio.create_task(self._read_wanted())
        return await asyncio.shield(answer)

    async def _read_wanted(self) -> None:
        while self._wanted:
            wanted, self._wanted = self._wanted, {}
            try:
                found = await self._read(list(wanted))
            except Exception as error:  # noqa: BLE001 - handed to all readers; dropping it would leave them waiting
                for waiting in wanted.values():
                    waiting.set_exception(error)
                    waiting.exception()  # seen, even when every reader has left
                continue
            now = time.monotonic()
            self._fresh = {job_id: old for job_id, old in self._fresh.items() if old[0] > now}
            self._fresh |= {job_id: (now + FRESH_S, snapshot) for job_id, snapshot in found.items()}
            for job_id, waiting in wanted.items():
                if job_id in found:
                    waiting.set_result(found[job_id])
                else:
                    waiting.set_exception(UnknownJob("There is no such job."))
                    waiting.exception()
        self._reader = None


def _discard(groups: dict[str, set[_Member]], job_id: str, member: _Member) -> None:
    groups[job_id].discard(member)
    if not groups[job_id]:
        del groups[job_id]


def _says_ended(news: Iterable[JobEvent]) -> bool:
    return any(event.kind == "state" and event.data["state"] in FINAL_STATES for event in news)
