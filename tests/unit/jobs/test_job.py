"""The rules of a job's life that need no database."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from retouch.edit import Delivery
from retouch.jobs.fair_queue import SECOND, cost_of
from retouch.jobs.job import Job, JobState, state_after_lost_lease, utc_now
from retouch.jobs.store import Retention
from tests.harness import an_edit

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RUNNING = Job(
    id="x",
    account_id="anne",
    queue="demo",
    state=JobState.RUNNING,
    request=an_edit(),
    delivery=Delivery("fal", "x"),
    sequence=1,
    priority=100,
    attempt=1,
    cancel_requested=False,
    step=0,
    steps=4,
    created_at=NOW,
    queued_at=NOW,
)


@pytest.mark.parametrize(
    ("attempt", "cancel_requested", "state"),
    [
        (1, False, JobState.QUEUED),
        (3, False, JobState.FAILED),
        (1, True, JobState.CANCELLED),
        (3, True, JobState.CANCELLED),
    ],
)
def test_where_a_job_goes_whose_worker_is_gone(attempt: int, cancel_requested: bool, state: JobState) -> None:
    lost = replace(RUNNING, attempt=attempt, cancel_requested=cancel_requested)
    assert state_after_lost_lease(lost, max_attempts=3) is state


def test_the_caller_s_retention_counts_but_not_below_the_shortest() -> None:
    life = Retention(default_s=1000, shortest_s=10)
    for wanted_s, life_s in ((None, 1000), (50, 50), (1, 10), (5000, 5000)):
        job = replace(RUNNING, delivery=Delivery("fal", "x", retention_s=wanted_s))
        assert life.end(job, NOW).expires_at == NOW + timedelta(seconds=life_s)


def test_a_cost_is_never_nothing_and_small_differences_are_none() -> None:
    assert cost_of(0.0) == 1
    assert cost_of(1.0) == pytest.approx(SECOND, rel=0.03)
    assert cost_of(10.0) == cost_of(10.05)
    assert all(0.96 < cost_of(seconds / 7) / (seconds / 7 * SECOND) <= 1 for seconds in range(1, 500))


def test_the_clock_knows_its_zone() -> None:
    assert utc_now().tzinfo is UTC
