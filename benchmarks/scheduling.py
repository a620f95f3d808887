"""Policies of order and lease on one trace, step by step in simulated time, over the product's own scheduler and line.

    python benchmarks/scheduling.py [--arrivals 1500] [--seeds 2] [--load 0.9]

The rows named "ours" put every job into a real line (`jobs/store.py` on SQLite), lease it by the worker's rule and run
it under `engine/scheduler.py`; the other rows swap one of the three. Step times are those computed for the 20-billion
model (1 MP, one reference: 0.212 s, guided 0.425 s; two references 0.743 s; three, or 2048²: 1.13 to 1.49 s), prepare
0.3 s, decode 0.15 s, claim 0.01 s, staging 0.2 s beside the device. Mix: 60 % short (2 to 8 steps), 35 % normal (30 to
50 steps), 5 % huge. Slowdown is the time in the system ÷ the time alone. No figure here is of a real device.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import statistics
import tempfile
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection

from retouch.database import Database
from retouch.edit import Delivery, EditRequest, ImageInput
from retouch.engine.pipeline import BatchKey
from retouch.engine.scheduler import IDLE, Action, Place, Scheduler
from retouch.jobs import store
from retouch.jobs.job import PRIORITY_NORMAL, Job, JobState
from retouch.migrations import migrate

PREPARE_S, DECODE_S, CLAIM_S, STAGING_S = 0.3, 0.15, 0.01, 0.2
READY_S = 2.0
TYPICAL_S = 17.0
KEY = BatchKey((64, 64), ((64, 64),), guided=True)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
REQUEST = EditRequest("qwen-image-edit", "x", (ImageInput(url="https://example.com/cat.png"),))


@dataclass(slots=True)
class Edit:
    """One arrival. guess: predicted seconds ÷ true ones."""

    number: int
    at: float
    group: str
    account: str
    steps: int
    step_s: float
    guess: float = 1.0
    done: int = 0
    place: Place = ()
    ended: float = 0.0

    @property
    def device_s(self) -> float:
        return PREPARE_S + DECODE_S + self.steps * self.step_s

    @property
    def slowdown(self) -> float:
        return (self.ended - self.at) / (self.device_s + CLAIM_S + STAGING_S)

    @property
    def seconds_left(self) -> float:
        """As the worker predicts it."""
        return self.guess * self.device_s * (1 - self.done / self.steps)


def trace(arrivals: int, load: float, keys: int, seed: int, wrong: float) -> list[Edit]:
    """Poisson arrivals; `wrong` is the largest factor by which predictions err, either way."""
    dice, errors = random.Random(seed), random.Random(seed)
    edits, at = [], 0.0
    for number in range(arrivals):
        group = dice.choices(("short", "normal", "huge"), (60, 35, 5))[0]
        if group == "short":
            steps, step_s = dice.randint(2, 8), dice.choice((0.212, 0.425))
        elif group == "normal":
            steps, step_s = dice.choice((30, 40, 50)), dice.choice((0.425, 0.425, 0.743))
        else:
            steps, step_s = dice.choice((40, 50)), dice.uniform(1.13, 1.49)
        guess = errors.choice((1 / wrong, wrong)) if wrong >= 2 else errors.uniform(1 / wrong, wrong)
        edits.append(Edit(number, at, group, f"a{dice.randrange(keys)}", steps, step_s, guess))
    mean = statistics.mean(edit.device_s for edit in edits)
    for edit in edits:
        at += dice.expovariate(load / mean)
        edit.at = at
    return edits


class Line(Protocol):
    """What waits: put in, look at the head's place, take the head."""

    def put(self, edit: Edit) -> None: ...
    def head(self) -> Place | None: ...
    def take(self) -> Edit: ...


class OurLine:
    """The job table, its tags and its claims."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._edits: dict[str, Edit] = {}
        self._head: tuple[Place | None] | None = None

    def put(self, edit: Edit) -> None:
        job = Job(
            str(uuid.uuid4()), edit.account, "demo", JobState.QUEUED, REQUEST, Delivery("fal", "x"), 0, PRIORITY_NORMAL,
            attempt=0, cancel_requested=False, step=0, steps=edit.steps, created_at=NOW,
        )  # fmt: skip
        predicted = store.Predicted(edit.guess * edit.device_s, TYPICAL_S)
        self._edits[store.enqueue(self._connection, job, weight=1, predicted=predicted).id] = edit
        self._head = None

    def head(self) -> Place | None:
        if self._head is None:
            self._head = (store.head(self._connection, "demo", NOW),)
        return self._head[0]

    def take(self) -> Edit:
        lease = store.claim(self._connection, "demo", "w", NOW, 1e6)
        assert lease is not None
        self._head = None
        edit = self._edits.pop(lease.job.id)
        edit.place = store.place_of(lease.job)
        return edit


class SortedLine:
    """A line by a key that is known at submit."""

    def __init__(self, key: Callable[[Edit], float]) -> None:
        self._key = key
        self._heap: list[tuple[Place, Edit]] = []

    def put(self, edit: Edit) -> None:
        edit.place = (round(1e6 * self._key(edit)), edit.number)
        heapq.heappush(self._heap, (edit.place, edit))

    def head(self) -> Place | None:
        return self._heap[0][0] if self._heap else None

    def take(self) -> Edit:
        return heapq.heappop(self._heap)[1]


@dataclass
class Turns:
    """What the scheduler was before: four residents in turns by the work they have had, admitted as they came."""

    most: int = 4
    waiting: list[str] = field(default_factory=list)
    work: dict[str, float] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    step_s: dict[str, float] = field(default_factory=dict)
    last: str = ""

    def add(self, edit_id: str, memory_bytes: int, place: Place = ()) -> None:
        self.waiting.append(edit_id)

    def next(self) -> Action:
        action = self._choose()
        self.last = action.name
        return action

    def _choose(self) -> Action:
        if self.ended:
            return Action("decode", (next(iter(self.ended)),))
        if self.waiting and len(self.work) < self.most and not (self.work and self.last == "prepare"):
            return Action("prepare", (self.waiting[0],))
        return Action("denoise", (min(self.work, key=self.work.__getitem__),)) if self.work else IDLE

    def prepared(self, edit_id: str, key: BatchKey) -> None:
        self.waiting.remove(edit_id)
        self.work[edit_id] = min(self.work.values(), default=0.0)

    def stepped(self, edit_id: str, *, done: bool) -> None:
        self.work[edit_id] += self.step_s[edit_id]
        if done:
            self.ended.add(edit_id)

    def remove(self, edit_id: str) -> None:
        self.work.pop(edit_id, None)
        self.ended.discard(edit_id)


def just_in_time(leased: dict[str, Edit], head: Place) -> bool:
    """The worker's rule: what stands before the head lasts less than READY_S."""
    return sum(edit.seconds_left for edit in leased.values() if edit.place < head) < READY_S


def six_leases(leased: dict[str, Edit], head: Place) -> bool:
    return len(leased) < 6


def one_lease(leased: dict[str, Edit], head: Place) -> bool:
    return not leased


def simulate(
    edits: list[Edit], line: Line, scheduler: Scheduler | Turns, lease: Callable[..., bool]
) -> tuple[float, int]:
    """Run the trace on one device; returns when the last edit ended and the most edits held at once."""
    arrivals, leased, staging, resident = iter(edits), {}, [], 0
    coming: Edit | None = next(arrivals)
    now, boundary, most = 0.0, 0.0, 0
    while coming is not None or leased or line.head() is not None:
        while coming is not None and coming.at <= now:
            line.put(coming)
            coming = next(arrivals, None)
        while (head := line.head()) is not None and lease(leased, head):
            edit = line.take()
            leased[str(edit.number)] = edit
            # Leased while the step before this boundary ran, when it came during that step.
            leased_at = edit.at if edit.at > boundary else now
            heapq.heappush(staging, (leased_at + CLAIM_S + STAGING_S, edit.number))
        boundary = now
        while staging and staging[0][0] <= now:
            edit = leased[str(heapq.heappop(staging)[1])]
            if isinstance(scheduler, Turns):
                scheduler.step_s[str(edit.number)] = edit.step_s
            scheduler.add(str(edit.number), 1, edit.place)
        action = scheduler.next()
        if action is IDLE:
            now = min([at for at, _ in staging[:1]] + ([coming.at] if coming is not None else []))
            continue
        edit = leased[action.edit_ids[0]]
        if action.name == "prepare":
            now += PREPARE_S
            scheduler.prepared(action.edit_ids[0], KEY)
            resident += 1
            most = max(most, resident)
        elif action.name == "denoise":
            now += edit.step_s
            edit.done += 1
            scheduler.stepped(action.edit_ids[0], done=edit.done == edit.steps)
        else:
            now += DECODE_S
            edit.ended = now
            scheduler.remove(action.edit_ids[0])
            del leased[action.edit_ids[0]]
            resident -= 1
    return now, most


@contextmanager
def our_line() -> Iterator[Line]:
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{Path(folder) / 'line.db'}")
        migrate(database)
        with database.transaction(durability="eventual") as connection:
            yield OurLine(connection)
        database.close()


@contextmanager
def sorted_line(key: Callable[[Edit], float]) -> Iterator[Line]:
    yield SortedLine(key)


POLICIES: dict[str, tuple[Callable[[], object], Callable[[], Scheduler | Turns], Callable[..., bool], float]] = {
    "first come, one after the other": (lambda: sorted_line(lambda e: e.at), Scheduler, one_lease, 1.0),
    "as it was: first come, 6 leases, 4 in turns": (lambda: sorted_line(lambda e: e.at), Turns, six_leases, 1.0),
    "arrival + 30 c, just in time": (
        lambda: sorted_line(lambda e: e.at + 30 * e.device_s),
        Scheduler,
        just_in_time,
        1.0,
    ),
    "ours, but 6 leases": (our_line, Scheduler, six_leases, 1.0),
    "ours": (our_line, Scheduler, just_in_time, 1.0),
    "ours, predictions wrong by up to 20 %": (our_line, Scheduler, just_in_time, 1.2),
    "ours, predictions wrong by a factor of 2": (our_line, Scheduler, just_in_time, 2.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arrivals", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--load", type=float, default=0.9)
    options = parser.parse_args()
    print(
        "| order, worker, lease | keys | short p50 / p99 | normal p50 / p99 | huge p50 / p99 / worst "
        "| mean | held | rate |"
    )
    print("|---|---|---|---|---|---|---|---|")
    first_come: dict[tuple[int, int], float] = {}
    for (name, (line, scheduler, lease, wrong)), keys in itertools.product(POLICIES.items(), (1, 50)):
        slowdowns: dict[str, list[float]] = defaultdict(list)
        rates, held = [], 0
        for seed in range(options.seeds):
            edits = trace(options.arrivals, options.load, keys, seed, wrong)
            with line() as opened:  # type: ignore[attr-defined]
                end, most = simulate(edits, opened, scheduler(), lease)
            rates.append(first_come.setdefault((keys, seed), end) / end)
            held = max(held, most)
            for edit in edits:
                slowdowns[edit.group].append(edit.slowdown)
        cells = []
        for group in ("short", "normal", "huge"):
            p50, p99 = (
                statistics.quantiles(slowdowns[group], n=100, method="inclusive")[percent - 1] for percent in (50, 99)
            )
            worst = f" / {max(slowdowns[group]):.3g}" if group == "huge" else ""
            cells.append(f"{p50:.3g} / {p99:.3g}{worst}")
        mean = statistics.mean(itertools.chain(*slowdowns.values()))
        row = (name, keys, *cells, f"{mean:.3g}", held, f"{100 * statistics.mean(rates):.1f} %")
        print("|", " | ".join(map(str, row)), "|", flush=True)


if __name__ == "__main__":
    main()
