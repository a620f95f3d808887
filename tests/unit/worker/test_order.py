"""Which job a worker leases when, which it hands back, and what it refuses to wait for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from retouch.edit import SizeRequest
from retouch.engine.cost import Cost, StateMemory
from retouch.errors import InvalidRequest
from retouch.jobs import device_costs
from retouch.jobs.fair_queue import Place
from retouch.jobs.job import JobState
from retouch.worker.settings import HeartbeatSettings, WorkerSettings
from tests.harness import BEN, Deployment, GatedPipeline
from tests.waiting import until

HASTY = WorkerSettings(poll_s=0.2, outage_pause_s=0.05, heartbeat=HeartbeatSettings(lease_s=5.0, progress_s=0.05))


def step_until_ended(bench: Deployment, job_id: str) -> None:
    def one_more() -> bool:
        bench.gate.let(1)
        return bench.state(job_id).final

    until(one_more)


def test_a_short_edit_of_another_account_overtakes_long_ones_that_are_running(bench: Deployment) -> None:
    longs = [bench.submit(steps=50) for _ in range(3)]
    with bench.worker(GatedPipeline(bench.gate), settings=HASTY):
        bench.gate.wait_for_arrival()
        short = bench.submit(BEN, steps=2)
        step_until_ended(bench, short.id)
        assert not any(bench.state(each.id).final for each in longs), "not even one long edit was ended first"
        bench.gate.open()
        ended = [bench.finished(each.id) for each in longs]
    assert bench.state(short.id) is JobState.SUCCEEDED
    assert [each.attempt for each in ended] == [1, 1, 1]


def test_long_edits_wait_in_the_line_and_not_in_the_worker(bench: Deployment) -> None:
    bench.service.keep_cost("null", "null", Cost({**Cost().coefficients, "denoise": (10.0, 0.0, 0.0)}))
    jobs = [bench.submit(steps=4) for _ in range(3)]
    with bench.worker(GatedPipeline(bench.gate), settings=HASTY):
        bench.gate.wait_for_arrival()
        for _ in range(3):
            bench.gate.let(1)
            bench.gate.wait_for_arrival()
        assert [bench.state(each.id) for each in jobs] == [JobState.RUNNING, JobState.QUEUED, JobState.QUEUED]
        bench.gate.open()
        assert [bench.finished(each.id).state for each in jobs] == [JobState.SUCCEEDED] * 3


def test_a_job_that_has_not_begun_goes_back_when_room_is_needed_before_it(bench: Deployment) -> None:
    first = bench.submit(steps=40)
    patient = replace(HASTY, most_leased=2, ready_s=1000.0, too_long_s=1000.0)
    with bench.worker(GatedPipeline(bench.gate), settings=patient):
        bench.gate.wait_for_arrival()
        second = bench.submit(steps=40)  # not before, as either may be staged first
        until(lambda: bench.state(second.id) is JobState.RUNNING)
        short = bench.submit(steps=1)
        until(lambda: bench.state(second.id) is JobState.QUEUED)
        assert bench.job(second.id).attempt == 0
        step_until_ended(bench, short.id)
        assert not bench.state(first.id).final
        bench.gate.open()
        assert bench.finished(second.id).attempt == 1


def test_a_job_that_has_not_begun_is_left_to_others_when_it_would_wait_long(bench: Deployment) -> None:
    bench.service.keep_cost("null", "null", Cost({**Cost().coefficients, "denoise": (0.4, 0.0, 0.0)}))
    first = bench.submit(steps=4)
    with bench.worker(GatedPipeline(bench.gate), settings=replace(HASTY, too_long_s=2.5)):
        bench.gate.wait_for_arrival()
        second = bench.submit(steps=40)  # not before, as either may be staged first
        until(lambda: bench.state(second.id) is JobState.RUNNING)
        bench.submit(BEN, steps=4)
        until(lambda: bench.state(second.id) is JobState.QUEUED)
        assert bench.job(second.id).attempt == 0
        bench.gate.open()
        assert bench.finished(first.id).state is JobState.SUCCEEDED
        assert bench.finished(second.id).attempt == 1


def test_a_job_whose_image_is_being_stored_is_not_given_back_for_one_before_it(
    bench: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, head, looks = bench.blobs.put, bench.service.head, []

    def put_slowly(*given: Any, folder: str, **named: Any) -> str:
        if folder == "outputs":
            bench.gate.arrive()
        return put(*given, folder=folder, **named)

    def head_and_note(queue: str) -> Place | None:
        looks.append(queue)
        return head(queue)

    monkeypatch.setattr(bench.blobs, "put", put_slowly)
    monkeypatch.setattr(bench.service, "head", head_and_note)
    made = bench.submit(steps=40)
    with bench.worker(settings=replace(HASTY, most_leased=1)):
        bench.gate.wait_for_arrival()
        short = bench.submit(BEN, steps=1)
        looks.clear()
        until(lambda: len(looks) >= 3)  # the second one was followed by all that is done about a place
        assert bench.state(made.id) is JobState.RUNNING
        bench.gate.open()
        assert bench.finished(made.id).attempt == 1
        assert bench.finished(short.id).state is JobState.SUCCEEDED


def test_an_edit_that_can_never_fit_is_refused_at_submit_with_the_figures(bench: Deployment) -> None:
    large = SizeRequest(width=1024, height=1024)
    bench.submit(size=large)
    bench.service.keep_cost("null", "a small device", Cost(memory=StateMemory(16, 2, 3072, 40_000_000)))
    with pytest.raises(InvalidRequest, match=r"1\.0 megapixels with 1 input images needs 0\.\d\d GB .* has 0\.04 GB"):
        bench.submit(size=large)
    bench.service.keep_cost("null", "a large device", Cost(memory=StateMemory(16, 2, 3072, 40_000_000_000)))
    bench.submit(size=large)


def test_what_a_worker_measured_is_kept_for_all(bench: Deployment) -> None:
    often = replace(HASTY, heartbeat=replace(HASTY.heartbeat, keep_cost_s=0.0))

    def measured() -> bool:
        with bench.database.read() as connection:
            known = device_costs.of_queue(connection, "null").get("null")
        return known is not None and Cost.from_json(known) != Cost()

    with bench.worker(settings=often):
        bench.finished(bench.submit().id)
        until(measured)
