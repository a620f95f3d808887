"""What an edit will take: device seconds and memory before it is accepted, seconds left while it waits or runs.

Estimated from what workers have measured of their devices and from what stands before a job in its line. It writes
nothing, and no result depends on it (`engine/cost.py` says how the seconds are predicted).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from math import inf
from typing import NamedTuple

from sqlalchemy import Connection

from retouch.catalog import HOSTED, Catalog, Route
from retouch.database import Database
from retouch.edit import EditRequest
from retouch.engine.cost import TOKEN, Cost, seconds_on, typical_work, work_of
from retouch.errors import InvalidRequest
from retouch.jobs import device_costs, fair_queue, liveness, store
from retouch.jobs.job import FINAL_STATES, Clock, Job, JobState

COSTS_FRESH_S = 2.0
"""How long a process goes by what it has read of the devices' costs."""

LINE_FRESH_S = 0.05
"""The same for what runs, which everybody who polls asks for."""

STALE_S = 0.5
"""How far the step a job is known to be at may lie behind: it is written, and read, a few times a second."""

TOLERANCE = 0.9
"""Share of the memory predicted from areas that an edit needs at the least, whatever its images' shapes."""


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

    def __init__(self, database: Database, catalog: Catalog, clock: Clock) -> None:
        self._database = database
        self._catalog = catalog
        self._clock = clock
        self._costs: dict[str, tuple[float, Mapping[str, Cost]]] = {}  # by queue, with the time they are fresh until
        self._lines: dict[str, tuple[float, _Line]] = {}  # the same, for the lines as callers wait in them

    def forget(self, queue: str) -> None:
        """Read anew what edits of a queue take, which has just been measured."""
        self._costs.pop(queue, None)
        self._lines.pop(queue, None)

    def costs(self, queue: str, connection: Connection | None = None) -> Mapping[str, Cost]:
        """What is known of edits of a queue, by device; at most COSTS_FRESH_S old."""
        until, known = self._costs.get(queue, (0.0, {}))
        if time.monotonic() < until:
            return known
        if connection is None:
            with self._database.read() as reading:
                return self.costs(queue, reading)
        found = device_costs.of_queue(connection, queue)
        known = {device: Cost.from_json(cost) for device, cost in found.items()}
        self._costs[queue] = time.monotonic() + COSTS_FRESH_S, known
        return known

    def predict(self, route: Route, request: EditRequest) -> store.Predicted:
        """Device seconds of an edit whose images have not been looked at yet."""
        costs = tuple(self.costs(route.queue).values())
        seconds = request.num_images * seconds_on(costs, work_of(request, route.checkpoint))
        return store.Predicted(seconds, seconds_on(costs, typical_work(route.checkpoint)))

    def refuse_what_never_fits(self, route: Route, request: EditRequest) -> None:
        """Raise InvalidRequest when no device of the queue has the memory, as far as its areas tell.

        Shapes are not known yet, which is what TOLERANCE leaves room for; the engine refuses by the exact sizes.
        """
        work, checkpoint = work_of(request, route.checkpoint), route.checkpoint
        memories = [cost.memory for cost in self.costs(route.queue).values()]
        if not memories or any(memory is None or memory.budget_bytes is None for memory in memories):
            return
        needed, given = max(
            ((memory.bytes_of(work, checkpoint), memory.budget_bytes or 0) for memory in memories if memory),
            key=lambda each: each[1] - each[0],
        )
        if needed * TOLERANCE > given:
            raise InvalidRequest(
                f"An edit of {work.target * TOKEN**2 / 1e6:.1f} megapixels with {len(request.images)} input images "
                f"needs {needed / 1e9:.2f} GB of device memory between its steps; the largest device here has "
                f"{given / 1e9:.2f} GB for that. Ask for a smaller size or give fewer images.",
                field="size",
            )

    def snapshots(self, connection: Connection, jobs: Iterable[Job]) -> dict[str, Snapshot]:
        """Each job with its position and its time, by id. All of `connection` must see one moment."""
        lines: dict[str, _Line] = {}
        found: dict[str, Snapshot] = {}
        for job in jobs:
            if job.state in FINAL_STATES:
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
            line = _Line(store.under_way(connection, queue), alive, self.costs(queue, connection))
            self._lines[queue] = now + LINE_FRESH_S, line
        return line

    def _snapshot(self, connection: Connection, job: Job, line: _Line) -> Snapshot:
        """Of a job that waits or runs. How long a hosted provider takes is not foreseen."""
        if job.queue == HOSTED.name:
            return Snapshot(job, store.ahead(connection, job).jobs if job.state is JobState.QUEUED else 0, None)
        place = store.place_of(job)
        before = [each for each in line.running if each.place < place]
        if job.state is JobState.QUEUED:
            waiting, workers = store.ahead(connection, job), max(1, line.workers)
        else:
            waiting, workers = fair_queue.Ahead(0, 0), 1
            before = [each for each in before if each.worker == job.worker]
        busy = sum(each.left for each in before) + waiting.cost
        # Costs are those of the submit; the device may be known better by now.
        costs = tuple(line.costs.values()) or (Cost(),)
        work = work_of(job.request, self._catalog.route(job.request.model).checkpoint)
        predicted = job.request.num_images * seconds_on(costs, work)
        scale = predicted / job.cost if job.cost else 1 / fair_queue.SECOND
        own_s = self._own_s(job, predicted, sum(cost.around_s for cost in costs) / len(costs))
        wait_s = busy / workers * scale
        return Snapshot(
            job, waiting.jobs, round(own_s + wait_s, 2), round(wait_s, 2) if job.state is JobState.QUEUED else None
        )

    def _own_s(self, job: Job, predicted: float, around_s: float) -> float:
        """What is left of a job's own seconds: by its steps, and as far as those may be out of date by the clock.

        A clock alone would be wrong for a job that stands aside for others, steps alone for one that is over in half a
        second.
        """
        if job.state is JobState.QUEUED or job.started_at is None:
            return predicted + around_s
        by_steps = predicted * (1 - job.step / job.steps if job.steps else 1.0) + around_s
        by_clock = predicted + around_s - (self._clock() - job.started_at).total_seconds()
        return max(0.0, min(by_steps, max(by_clock, by_steps - STALE_S)))
