"""The seconds that callers are told are left, from predictions and the line."""

from __future__ import annotations

import pytest

from retouch.engine.cost import Cost
from tests.harness import BEN, OUTPUT, USAGE, Deployment

TEN_A_STEP = Cost({"denoise": (10.0, 0.0, 0.0), "prepare": (0.0, 0.0, 0.0), "decode": (0.0, 0.0)}, around_s=0.5)


@pytest.fixture
def slow(world: Deployment, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """A line whose steps take ten seconds each, which is looked at anew every time."""
    monkeypatch.setattr("retouch.estimates.LINE_FRESH_S", 0.0)
    world.service.keep_cost("demo", "a device", TEN_A_STEP)
    return world


def left(world: Deployment, job_id: str) -> float:
    seconds = world.service.seconds_left(world.job(job_id))
    assert seconds is not None
    return seconds


def test_a_waiting_edit_is_told_what_stands_before_it_and_its_own(slow: Deployment) -> None:
    first, second = slow.submit(steps=4), slow.submit(steps=4)
    assert left(slow, first.id) == pytest.approx(40.5, rel=0.05)
    assert left(slow, second.id) == pytest.approx(80.5, rel=0.05)
    slow.service.beat("w1", ["demo"], "cpu", "ready")
    slow.service.beat("w2", ["demo"], "cpu", "ready")
    assert left(slow, second.id) == pytest.approx(60.5, rel=0.05)


def test_a_running_edit_counts_down_by_its_steps(slow: Deployment) -> None:
    first, second = slow.submit(steps=4), slow.submit(steps=4)
    lease = slow.lease()
    assert left(slow, first.id) == pytest.approx(40.5, rel=0.05)
    slow.service.progress(lease, step=3, steps=4)
    assert left(slow, first.id) == pytest.approx(10.5, rel=0.05)
    assert left(slow, second.id) == pytest.approx(50.5, rel=0.05)
    slow.service.finish(lease, OUTPUT, USAGE)
    assert slow.service.seconds_left(slow.job(first.id)) is None
    assert left(slow, second.id) == pytest.approx(40.5, rel=0.05)


def test_the_wait_is_distinguished_from_the_edit_itself(slow: Deployment) -> None:
    first, second = slow.submit(steps=4), slow.submit(steps=4)
    slow.lease()
    found = slow.service.get_many([first.id, second.id])
    assert found[first.id].wait_s is None, "it does not wait"
    assert found[second.id].wait_s == pytest.approx(40, rel=0.05)


def test_between_two_reports_of_its_steps_a_running_edit_counts_down_by_the_clock(slow: Deployment) -> None:
    job = slow.submit(steps=4)
    slow.lease()
    slow.clock.move(0.3)
    assert left(slow, job.id) == pytest.approx(40.2, abs=0.05)
    slow.clock.move(20)
    assert left(slow, job.id) == pytest.approx(40.0, abs=0.05), "it stands aside, or its steps take longer: they decide"


def test_a_short_edit_does_not_count_the_long_ones_it_overtakes(slow: Deployment) -> None:
    slow.submit(steps=40)
    slow.lease()
    long, short = slow.submit(steps=40), slow.submit(BEN, steps=2)
    assert left(slow, short.id) == pytest.approx(20.5, rel=0.05)
    assert left(slow, long.id) == pytest.approx(820.5, rel=0.05)


def test_what_was_predicted_at_submit_is_corrected_by_what_was_measured_since(world: Deployment) -> None:
    job = world.submit(steps=4)
    assert left(world, job.id) < 5
    world.service.keep_cost("demo", "a device", TEN_A_STEP)
    assert left(world, job.id) == pytest.approx(40.5, rel=0.05)
