"""How long an edit will still take, while it waits in a line or runs.

Estimated from what workers have measured of their devices and from what stands before a job in its line. It writes
nothing, and no result depends on it. What an edit takes of a device is predicted in `engine/cost.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from functools import partial
from math import inf
from typing import NamedTuple

from sqlalchemy import Connection

from retouch.catalog import HOSTED, Catalog, Route
from retouch.database import Database
from retouch.engine.cost import Cost, QueueCosts, seconds_on, work_of
from retouch.jobs import device_costs, fair_queue, liveness, store
from retouch.jobs.job import Clock, Job, JobState

LINE_FRESH_S = 0.05
"""How long a process goes by what it has read of a line, which every caller who polls asks for."""

STALE_S = 0.5
"""How far the step a job is known to be at may lie behind: it is written, and read, a few times a second."""


class Snapshot(NamedTuple):
    """A job at one moment. position: jobs before it, 0 for one that does not wait.

    seconds_left: until its images are there, as predicted; None for a job that has ended. Jobs that come later and are
    placed before it are not foreseen, nor is how long a hosted provider takes: None for its jobs too. wait_s: the part
    of it before a waiting job starts.
    """

    job: Job
    position: int
    seconds_left: float | None
    wait_s: float | None = None


class _Line(NamedTuple):
    """A queue as callers wait in it."""

    running: tuple[store.Under, ...]
    workers: int
    costs: Mapping[str, Cost]


class Estimates:
    """One process' estimates, from what it has lately read. Safe from any thread; raises DatabaseUnavailable."""

    def __init__(self, database: Database, catalog: Catalog, clock: Clock, costs: QueueCosts) -> None:
        self._database = database
        self._catalog = catalog
        self._clock = clock
        self._costs = costs
        self._lines: dict[str, tuple[float, _Line]] = {}  # by queue, with the time they are fresh until

    def forget(self, queue: str) -> None:
        """Read anew what edits of a queue take, which has just been measured."""
        self._costs.forget(queue)
        self._lines.pop(queue, None)

    def snapshots(self, connection: Connection, jobs: Iterable[Job]) -> dict[str, Snapshot]:
        """Each job with its position and its time, by id. All of `connection` must see one moment."""
        lines: dict[str, _Line] = {}
        found: dict[str, Snapshot] = {}
        for job in jobs:
            if job.state.final:
                found[job.id] = Snapshot(job, 0, None)
                continue
            if job.queue not in lines:
                lines[job.queue] = self._line(connection, job.queue)
            found[job.id] = self._snapshot(connection, job, lines[job.queue])
        return found

    def wait_s(self, route: Route) -> float:
        """How long an edit of a queue would wait for a device, all that waits there before it; inf without a worker."""
        with self._database.read() as connection:
            line = self._line(connection, route.queue)
            waiting = fair_queue.ahead(connection, route.queue, fair_queue.LAST)
        if not line.workers:
            return inf
        busy = sum(each.left for each in line.running) + waiting.cost
        return busy / fair_queue.SECOND / line.workers

    def _line(self, connection: Connection, queue: str) -> _Line:
        now = time.monotonic()
        until, line = self._lines.get(queue, (0.0, None))
        if line is None or now >= until:
            alive = sum(queue in each.queues for each in liveness.live(connection, self._clock()))
            costs = self._costs.of_queue(queue, partial(device_costs.of_queue, connection))
            line = _Line(store.under_way(connection, queue), alive, costs)
            self._lines[queue] = now + LINE_FRESH_S, line
        return line

    def _snapshot(self, connection: Connection, job: Job, line: _Line) -> Snapshot:
        """Of a job that waits or runs. How long a hosted provider takes is not foreseen."""
        waits = job.state is JobState.QUEUED
        if job.queue == HOSTED.name:
            return Snapshot(job, store.ahead(connection, job).jobs if waits else 0, None)
        # Costs are those of the submit; the device may be known better by now.
        costs = tuple(line.costs.values()) or (Cost(),)
        work = work_of(job.request, self._catalog.route(job.request.model).checkpoint)
        predicted = job.request.num_images * seconds_on(costs, work)
        around_s = sum(cost.around_s for cost in costs) / len(costs)
        scale = predicted / job.cost if job.cost else 1 / fair_queue.SECOND
        place, own_s = store.place_of(job), predicted + around_s
        before = [each for each in line.running if each.place < place]
        if waits:
            waiting, workers = store.ahead(connection, job), max(1, line.workers)
        else:
            waiting, workers = fair_queue.Ahead(0, 0), 1
            before = [each for each in before if each.worker == job.worker]
        if not waits and job.started_at is not None:
            # By its steps, and as far as those may be out of date by the clock: a clock alone would be wrong for a job
            # that stands aside for others, steps alone for one that is over in half a second.
            by_steps = predicted * (1 - job.step / job.steps if job.steps else 1.0) + around_s
            by_clock = own_s - (self._clock() - job.started_at).total_seconds()
            own_s = max(0.0, min(by_steps, max(by_clock, by_steps - STALE_S)))
        wait_s = (sum(each.left for each in before) + waiting.cost) / workers * scale
        return Snapshot(job, waiting.jobs, round(own_s + wait_s, 2), round(wait_s, 2) if waits else None)
