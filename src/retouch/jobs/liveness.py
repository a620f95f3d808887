"""Which workers are alive, and how full the queues are: the facts behind `/ready` and `/metrics`.

A worker beats every few seconds; one that has been silent for ALIVE_S counts as gone. Beats decide nothing
about jobs: a lease does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, case, delete, func, select

from retouch.database import insert_into
from retouch.jobs.job import JobState, QueueLoad
from retouch.jobs.store import RUNNING
from retouch.jobs.tables import job, job_tally, queue_block, worker

ALIVE_S = 15.0
"""Silence after which a worker counts as gone: three missed beats of five seconds."""

READY, LOADING, FAILED = "ready", "loading", "failed"


@dataclass(frozen=True, slots=True)
class LiveWorker:
    """A worker that was heard of lately.

    state: `loading`, `ready`, or `failed` for a model that cannot run beside others that do. seconds: spent by stage
    since it started. checks: safety checks since then by `stage verdict`. problem: why it cannot get
    ready, in a sentence. facts: its device's name and how its model was loaded, see `Pipeline.facts`.
    """

    name: str
    queues: tuple[str, ...]
    device: str
    state: str
    seen_at: datetime
    seconds: Mapping[str, float] = field(default_factory=dict)
    checks: Mapping[str, int] = field(default_factory=dict)
    problem: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)


class JobTimes(NamedTuple):
    """Sums over every job that ever succeeded, in seconds: from submit to start, and from start to end."""

    jobs: int
    wait_s: float
    run_s: float


@dataclass(frozen=True, slots=True)
class QueueStatistics:
    """Jobs by queue and state. `queued` and `running` are now; the final states count every job ever."""

    jobs: Mapping[str, Mapping[JobState, int]]
    workers: tuple[LiveWorker, ...]
    times: Mapping[str, JobTimes]


def beat(connection: Connection, alive: LiveWorker) -> None:
    """Note that a worker is alive."""
    values = {"queues": list(alive.queues), "device": alive.device, "state": alive.state, "seen_at": alive.seen_at}
    values |= {"seconds": dict(alive.seconds), "checks": dict(alive.checks), "problem": alive.problem}
    values["facts"] = dict(alive.facts)
    row = insert_into(connection, worker).values(name=alive.name, **values)
    connection.execute(row.on_conflict_do_update(index_elements=["name"], set_=values))


def live(connection: Connection, now: datetime) -> tuple[LiveWorker, ...]:
    query = select(worker).where(worker.c.seen_at > now - timedelta(seconds=ALIVE_S)).order_by(worker.c.name)
    rows = connection.execute(query)
    return tuple(
        LiveWorker(
            row.name,
            tuple(row.queues),
            row.device,
            row.state,
            row.seen_at,
            seconds=row.seconds,
            checks=row.checks,
            problem=row.problem,
            facts=row.facts,
        )
        for row in rows
    )


def prune(connection: Connection, now: datetime) -> None:
    """Forget the workers that have been silent for an hour."""
    connection.execute(delete(worker).where(worker.c.seen_at < now - timedelta(hours=1)))


def unready_reason(workers: Iterable[LiveWorker], queues: Iterable[str]) -> str | None:
    """Why a job of some queue would not be run now, or None.

    A queue whose model cannot run at all is passed over as long as another one is served: waiting would not help.
    """
    alive = tuple(workers)
    reasons = {queue: _reason(alive, queue) for queue in queues}
    waiting = [reason for queue, reason in reasons.items() if reason is not None and failure_of(alive, queue) is None]
    if not waiting and None in reasons.values():
        return None
    return next(iter(waiting), next(iter(reasons.values()), None))


def failure_of(workers: Iterable[LiveWorker], queue: str) -> str | None:
    """Why no worker of a queue can ever run its model, in a sentence; None when one can, or there is none."""
    serving = [each for each in workers if queue in each.queues]
    if not serving or any(each.state != FAILED for each in serving):
        return None
    return serving[0].problem or f"The model '{queue}' cannot run here."


def _reason(alive: Iterable[LiveWorker], queue: str) -> str | None:
    serving = [each for each in alive if queue in each.queues]
    states = {each.state for each in serving}
    if READY in states:
        return None
    problem = next((each.problem for each in serving if each.problem), None)
    if problem is not None:
        return problem
    return f"The model '{queue}' is loading." if LOADING in states else f"No worker serves '{queue}'."


def statistics(connection: Connection, now: datetime) -> QueueStatistics:
    """Three short reads; none of them counts job rows that wait or have ended."""
    jobs: dict[str, dict[JobState, int]] = {}
    waiting = select(queue_block.c.queue, func.sum(queue_block.c.waiting)).group_by(queue_block.c.queue)
    running = select(job.c.queue, func.count()).where(RUNNING).group_by(job.c.queue)
    for state, query in ((JobState.QUEUED, waiting), (JobState.RUNNING, running)):
        for queue, count in connection.execute(query):
            jobs.setdefault(queue, {})[state] = int(count)
    times: dict[str, JobTimes] = {}
    for row in connection.execute(select(job_tally)):
        jobs.setdefault(row.queue, {})[JobState(row.state)] = row.jobs
        if row.state == JobState.SUCCEEDED.value:
            times[row.queue] = JobTimes(row.jobs, row.wait_ms / 1000, row.run_ms / 1000)
    complete = {queue: {state: counts.get(state, 0) for state in JobState} for queue, counts in jobs.items()}
    return QueueStatistics(complete, live(connection, now), times)


def load_of(connection: Connection, account_id: str, queue: str, now: datetime) -> QueueLoad:
    of_account = (job.c.account_id == account_id, job.c.queue == queue)
    retried = func.sum(case((job.c.retries > 0, 1), else_=0))
    counted = select(job.c.state, func.count(), retried).where(*of_account).group_by(job.c.state)
    rows = connection.execute(counted).all()
    jobs = {JobState(row[0]): int(row[1]) for row in rows}
    serving = [each.state for each in live(connection, now) if queue in each.queues]
    busy = select(func.count(func.distinct(job.c.worker))).where(RUNNING, job.c.queue == queue)
    return QueueLoad(
        {state: jobs.get(state, 0) for state in JobState},
        retried=sum(int(row[2]) for row in rows),
        ready_workers=serving.count(READY),
        loading_workers=serving.count(LOADING),
        busy_workers=connection.execute(busy).scalar_one(),
    )
