"""A random walk over the life of jobs, beside a model of a page, on both databases.

Callers submit and cancel, workers lease, renew, finish, give back, stall and come back with leases that are no
longer theirs, time passes and sweeps run. After every step the states, the positions and every maintained
count are compared with the model; at the end every job must have ended, and have been billed at most once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import select

from retouch.accounts.keys import Account
from retouch.accounts.tables import usage_entry
from retouch.database import Database, metadata
from retouch.engine.cost import Cost, typical_work
from retouch.errors import Failure, JobFinished, LeaseLost
from retouch.jobs import fair_queue
from retouch.jobs.fair_queue import ALLOWANCE, DRIFT, HEAD_START, REMEMBERED, Place
from retouch.jobs.job import MAX_ATTEMPTS, JobState, Lease
from retouch.jobs.tables import job, webhook_outbox
from retouch.service import Service
from tests.harness import DELIVERY, OUTPUT, USAGE, Deployment, HandClock, an_edit

LEASE_S = 30.0
HOOKED = replace(DELIVERY, webhook_url="https://example.com/hook")
FAILURE = Failure("internal_error", "Something of ours is broken.")
TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.FAILED, JobState.CANCELLED}),
    JobState.RUNNING: frozenset({JobState.QUEUED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset({JobState.QUEUED}),
    JobState.CANCELLED: frozenset(),
}
ACCOUNTS = [Account(name, name, name, weight=weight) for name, weight in (("anne", 1), ("ben", 1), ("vip", 2))]


@dataclass
class Expected:
    """What the model says of a job. lease: the one that is current, if any."""

    account: Account
    place: Place
    cost: int
    share: int
    quick: bool
    start_by: datetime | None
    state: JobState = JobState.QUEUED
    attempt: int = 0
    cancel_requested: bool = False
    lease: Lease | None = None
    until: datetime | None = None

    def become(self, state: JobState) -> None:
        assert state in TRANSITIONS[self.state]
        self.state = state
        self.lease = None


class JobLives(RuleBasedStateMachine):
    def __init__(self, url: str, folder: Path) -> None:
        super().__init__()
        self.world = Deployment(folder, url, model="demo", clock=HandClock())
        empty(self.world.database)
        self.jobs: dict[str, Expected] = {}
        self.leases: list[Lease] = []
        self.clock: dict[int, int] = {}
        self.mean: dict[int, tuple[int, int]] = {}  # of the started jobs' costs, and how many they were
        self.next_tag: dict[tuple[str, int, bool], int] = {}

    @property
    def service(self) -> Service:
        return self.world.service

    @property
    def now(self) -> datetime:
        return self.world.clock.now

    # --- callers

    @rule(
        account=st.sampled_from(ACCOUNTS),
        priority=st.sampled_from([100, 200]),
        images=st.sampled_from([1, 2]),
        steps=st.sampled_from([1, 4, 40]),
        start_timeout_s=st.sampled_from([None, None, 45.0]),
    )
    def submit(self, account: Account, priority: int, images: int, steps: int, start_timeout_s: float | None) -> None:
        request = an_edit(num_images=images, steps=steps)
        submitted = self.service.submit(account, request, HOOKED, priority=priority, start_timeout_s=start_timeout_s)
        new = submitted.job
        clock, (mean, started) = self.clock.get(priority, 0), self.mean.get(priority, (0, 0))
        mean = (mean * started + self.typical()) // (started + 1)
        quick, share = new.cost <= mean * 3 // 4, new.cost // account.weight
        flow = (account.id, priority, quick)
        tag = max(clock, self.next_tag.get(flow, 0))
        self.next_tag[flow] = tag + share
        if quick:
            tag -= HEAD_START * mean * (mean * 3 // 4 - new.cost) // (mean * 3 // 4)
        else:
            tag = max(clock, tag - ALLOWANCE * mean)
        assert (new.fair_tag, new.quick) == (tag, quick)
        place = Place(priority, tag, new.sequence)
        self.jobs[new.id] = Expected(account, place, new.cost, share, quick, new.start_by)

    def typical(self) -> int:
        route = self.world.catalog.route(an_edit().model)
        return fair_queue.cost_of(Cost().seconds(typical_work(route.checkpoint)))

    @precondition(lambda self: self.jobs)
    @rule(which=st.integers(0, 1000))
    def cancel(self, which: int) -> None:
        job_id, expected = list(self.jobs.items())[which % len(self.jobs)]
        if expected.state.final:
            with pytest.raises(JobFinished):
                self.service.cancel(expected.account, job_id)
        elif expected.state is JobState.RUNNING:
            self.service.cancel(expected.account, job_id)
            expected.cancel_requested = True
        else:
            self.service.cancel(expected.account, job_id)
            self.give_up(expected, JobState.CANCELLED)

    # --- workers

    @rule(worker=st.sampled_from(["w1", "w2"]))
    def lease(self, worker: str) -> None:
        ready = [each for each in self.line() if each.start_by is None or each.start_by > self.now]
        lease = self.service.lease(worker, ["demo"], LEASE_S)
        if not ready:
            assert lease is None
            return
        assert lease is not None
        expected = self.jobs[lease.job.id]
        assert expected is ready[0]
        expected.become(JobState.RUNNING)
        expected.attempt += 1
        expected.lease, expected.until, expected.start_by = lease, self.now + timedelta(seconds=LEASE_S), None
        priority = expected.place.priority
        cost, (mean, started) = expected.cost, self.mean.get(priority, (0, 0))
        self.clock[priority] = max(self.clock.get(priority, 0) + cost // DRIFT, expected.place.fair_tag)
        mean += int((cost - mean) / (started + 1))  # towards 0, as both databases divide
        self.mean[priority] = mean, min(started + 1, REMEMBERED)
        self.leases.append(lease)

    @precondition(lambda self: self.leases)
    @rule(which=st.integers(0, 1000), verb=st.sampled_from(["renew", "progress", "finish", "fail", "stop", "release"]))
    def work(self, which: int, verb: str) -> None:
        lease = self.leases[-1 - which % len(self.leases)]
        expected = self.jobs[lease.job.id]
        if expected.lease is not lease:
            with pytest.raises(LeaseLost):
                VERBS[verb](self.service, lease)
            return
        answer = VERBS[verb](self.service, lease)
        if verb in ("renew", "progress"):
            assert answer is expected.cancel_requested
            expected.until = self.now + timedelta(seconds=LEASE_S) if verb == "renew" else expected.until
        elif verb == "release" and not expected.cancel_requested:
            expected.become(JobState.QUEUED)
            expected.attempt -= 1
        else:
            expected.become(ENDS[verb])

    # --- time

    @rule(seconds=st.sampled_from([1, 20, 31, 46]))
    def time_passes(self, seconds: int) -> None:
        self.world.clock.move(seconds)

    @rule()
    def sweep(self) -> None:
        self.service.sweep()
        for expected in self.jobs.values():
            if expected.state is JobState.RUNNING and expected.until is not None and expected.until < self.now:
                self.lose(expected)
            elif expected.state is JobState.QUEUED and expected.start_by is not None and expected.start_by <= self.now:
                self.give_up(expected, JobState.FAILED)

    def lose(self, expected: Expected) -> None:
        if expected.cancel_requested:
            expected.become(JobState.CANCELLED)
        elif expected.attempt == MAX_ATTEMPTS:
            expected.become(JobState.FAILED)
        else:
            expected.become(JobState.QUEUED)

    def give_up(self, expected: Expected, state: JobState) -> None:
        expected.become(state)
        self.next_tag[expected.account.id, expected.place.priority, expected.quick] -= expected.share

    def line(self) -> list[Expected]:
        waiting = [each for each in self.jobs.values() if each.state is JobState.QUEUED]
        return sorted(waiting, key=lambda each: each.place)

    # --- what must always hold

    @invariant()
    def the_database_says_what_the_model_says(self) -> None:
        query = select(job.c.id, job.c.state, job.c.attempt, job.c.cancel_requested)
        with self.world.database.read() as connection:
            found = {row.id: tuple(row)[1:] for row in connection.execute(query)}
        assert found == {
            job_id: (each.state.value, each.attempt, each.cancel_requested) for job_id, each in self.jobs.items()
        }

    @invariant()
    def every_position_is_exact(self) -> None:
        self.world.check_the_line()
        assert [order_of(each) for each in self.world.waiting_in_order()] == [each.place for each in self.line()]

    def teardown(self) -> None:
        """Every job ends, is billed once or never, and its caller is owed one webhook."""
        try:
            self.world.clock.move(1000)
            self.sweep()
            while (lease := self.service.lease("last", ["demo"], LEASE_S)) is not None:
                self.service.finish(lease, OUTPUT, USAGE)
                self.jobs[lease.job.id].state = JobState.SUCCEEDED
            assert all(each.state.final for each in self.jobs.values())
            self.the_database_says_what_the_model_says_of_ends()
        finally:
            self.world.close()

    def the_database_says_what_the_model_says_of_ends(self) -> None:
        with self.world.database.read() as connection:
            billed = sorted(connection.execute(select(usage_entry.c.job_id)).scalars())
            owed = sorted(connection.execute(select(webhook_outbox.c.job_id)).scalars())
        assert billed == sorted(job_id for job_id, each in self.jobs.items() if each.state is JobState.SUCCEEDED)
        assert owed == sorted(self.jobs)


VERBS: dict[str, Callable[[Service, Lease], object]] = {
    "renew": lambda service, lease: service.renew(lease, LEASE_S),
    "progress": lambda service, lease: service.progress(lease, step=1, steps=4),
    "finish": lambda service, lease: service.finish(lease, OUTPUT, USAGE),
    "fail": lambda service, lease: service.fail(lease, FAILURE),
    "stop": lambda service, lease: service.acknowledge_cancel(lease),
    "release": lambda service, lease: service.release(lease),
}
ENDS = {
    "finish": JobState.SUCCEEDED,
    "fail": JobState.FAILED,
    "stop": JobState.CANCELLED,
    "release": JobState.CANCELLED,
}


def order_of(waiting: object) -> Place:
    return Place(waiting.priority, waiting.fair_tag, waiting.sequence)  # type: ignore[attr-defined]


def empty(database: Database) -> None:
    with database.transaction() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(table.delete())


def test_whatever_happens_jobs_stay_true(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_queue, "BLOCK_SIZE", 4)
    run_state_machine_as_test(
        lambda: JobLives(database_url, tmp_path),
        settings=settings(
            max_examples=20,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
