"""A real service for tests, with a clock that is moved by hand, and the smallest edit there is."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from retouch.accounts.keys import Account
from retouch.catalog import Catalog, checkpoint_named
from retouch.database import Database
from retouch.edit import Delivery, EditOutput, EditRequest, ImageInput, OutputImage, Usage
from retouch.jobs import fair_queue, store
from retouch.jobs.job import Job, JobState, Lease
from retouch.jobs.tables import fair_clock, fair_share, job, queue_block
from retouch.jobs.wakeups import open_wakeups
from retouch.service import Service, ServiceSettings
from retouch.storage.blobs import Blobs
from retouch.storage.open import open_blobs

ANNE = Account("anne", "anne", "key_anne")
BEN = Account("ben", "ben", "key_ben")
DELIVERY = Delivery("fal", "fal-ai/qwen-image-edit")
OUTPUT = EditOutput((OutputImage("outputs/none", 256, 256, "image/png", 1000, 7),), "make it red", {}, (256, 256))
USAGE = Usage(images=1, pixels=65_536, steps=4, device_ms=120)
TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.FAILED, JobState.CANCELLED}),
    JobState.RUNNING: frozenset({JobState.QUEUED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset({JobState.QUEUED}),
    JobState.CANCELLED: frozenset(),
}


class HandClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def an_edit(prompt: str = "make it red", **changes: object) -> EditRequest:
    values: dict[str, object] = {"images": (ImageInput(url="https://example.com/cat.png"),), **changes}
    return EditRequest(model="qwen-image-edit", prompt=prompt, **values)  # type: ignore[arg-type]


@dataclass
class World:
    """One service and what it stands on."""

    database: Database
    folder: Path
    settings: ServiceSettings = field(default_factory=ServiceSettings)
    clock: HandClock = field(default_factory=HandClock)

    def __post_init__(self) -> None:
        self.blobs: Blobs = open_blobs(None, self.folder)
        self.catalog = Catalog.serving(checkpoint_named("demo"))
        self.wakeups = open_wakeups(self.database, self.folder)
        self.service = Service(self.database, self.blobs, self.catalog, self.wakeups, self.settings, self.clock)

    def close(self) -> None:
        self.wakeups.close()

    def submit(
        self, account: Account = ANNE, prompt: str = "make it red", *, steps: int | None = None, **how: object
    ) -> Job:
        return self.service.submit(account, an_edit(prompt, steps=steps), DELIVERY, **how).job  # type: ignore[arg-type]

    def lease(self, worker: str = "w1", lease_s: float = 30) -> Lease:
        lease = self.service.lease(worker, ["demo"], lease_s)
        assert lease is not None
        return lease

    def lose_the_worker(self, lease_s: float = 30) -> None:
        """Let every lease run out and be rescued."""
        self.clock.move(lease_s + 1)
        self.service.sweep()

    def look(self, job_id: str) -> Job:
        return self.service.get_any(job_id)

    def count(self, table: object) -> int:
        with self.database.read() as connection:
            return int(connection.execute(select(func.count()).select_from(table)).scalar_one())  # type: ignore[arg-type]

    def waiting_in_order(self) -> list[Job]:
        """What the queue is, by sorting all of it: the plain form of what `fair_queue.py` maintains."""
        query = select(job.c.id).where(fair_queue.QUEUED).order_by(job.c.priority, job.c.fair_tag, job.c.sequence)
        with self.database.read() as connection:
            ids = connection.execute(query).scalars().all()
        jobs = self.service.get_many(ids)
        return [jobs[job_id][0] for job_id in ids]

    def check_the_line(self) -> None:
        """Positions are 0 to n-1 in claim order, blocks tile the line, and every maintained count is true."""
        waiting = self.waiting_in_order()
        positions = self.service.get_many([each.id for each in waiting])
        assert [positions[each.id][1] for each in waiting] == list(range(len(waiting)))
        with self.database.read() as connection:
            blocks = connection.execute(fair_queue._BLOCKS, {"of_queue": "demo"}).all()
            shares = connection.execute(select(fair_share)).all()
            assert connection.execute(select(func.count()).select_from(queue_block)).scalar_one() == len(blocks)
            started = connection.execute(select(fair_clock)).all()
        assert sum(block.waiting for block in blocks) == len(waiting)
        assert sum(block.cost for block in blocks) == sum(each.cost for each in waiting)
        costs = itertools.accumulate((each.cost for each in waiting), initial=0)
        assert [self.ahead(each).cost for each in waiting[::7]] == list(costs)[:-1][::7]
        assert all(row.mean_cost > 0 for row in started)
        assert all(block.waiting <= fair_queue.BLOCK_SIZE for block in blocks)
        for block, following in itertools.pairwise(blocks):
            assert tuple(block[4:7]) == tuple(following[1:4])
        counts = Counter((each.account_id, each.priority, each.quick) for each in waiting)
        assert {(each.account_id, each.priority, each.quick): each.waiting for each in shares if each.waiting} == counts

    def ahead(self, waiting: Job) -> fair_queue.Ahead:
        with self.database.read() as connection:
            return store.ahead(connection, waiting)


@pytest.fixture
def world(database: Database, tmp_path: Path) -> Iterator[World]:
    """A service on each database."""
    world = World(database, tmp_path)
    yield world
    world.close()
