"""Two targets asked for the same edit: who may be asked as well, and what every attempt has cost.

Before stub providers, as in `test_gateway.py`; the bill is what the stubs say is owed.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from retouch.catalog.profiles import Sheet
from retouch.errors import InternalError
from retouch.jobs.attempts import Attempt, AttemptState
from retouch.jobs.job import JobState
from retouch.upstreams.edit_run import EditRun
from retouch.upstreams.gateway import QUEUES
from retouch.upstreams.routes import GatewaySettings
from tests.harness import ANNE, HandClock
from tests.upstreams.gateway_world import MODEL, GatewayWorld, MakeWorld
from tests.upstreams.stubs.server import PRICE_MICROUSD, Says, png
from tests.waiting import until

SLOW = ("running",) * 40 + ("done",)
"""Ends long after a hedge of HEDGE_S would have been sent."""
HEDGE_S = 0.2


def hedged(make: MakeWorld, **how: object) -> GatewayWorld:
    return make("fal:1", "fal:2", rule={"hedge_after_s": HEDGE_S}, **how)


def price(world: GatewayWorld, sheet: Sheet) -> None:
    """All targets cost what this sheet says."""
    (rule,) = world.routes.rules
    targets = tuple(replace(target, sheet=sheet) for target in rule.targets)
    world.routes = replace(world.routes, rules=(replace(rule, targets=targets),))


def booked(world: GatewayWorld, job_id: str) -> int:
    return sum(each.charge_microusd or 0 for each in world.attempts(job_id))


def makes_one_less(world: GatewayWorld, name: str) -> None:
    """Of several images the provider makes, and bills, one less than was asked for."""
    stub = world.stub(name)
    usual = stub.answer

    def answer(request: object) -> Says:
        said = usual(request)
        if request.station == "submit":  # type: ignore[attr-defined]
            for job in stub.jobs.values():
                job.images = max(1, job.input["num_images"] - 1)
        return said

    stub.answer = answer


# What it costs.


def finish_both(world: GatewayWorld, answer: Says | None = None, **asked: object) -> tuple[Attempt, Attempt]:
    """The loser and the winner of an edit that both providers have made: the loser is still fetching when it has lost.

    answer: to that download, instead of the image.
    """
    first, second = world.stub("fal:1"), world.stub("fal:2")
    first.plan = ("done",)
    arrived, goes_on = threading.Event(), threading.Event()
    usual = first._usual

    def slow_download(request: object) -> Says:
        if request.station != "download":  # type: ignore[attr-defined]
            return usual(request)
        arrived.set()
        goes_on.wait(20)
        return usual(request) if answer is None else answer

    first._usual = slow_download
    with world.gateway():
        job = world.edit(**asked)
        until(arrived.is_set)
        until(lambda: second.at("download"))
        goes_on.set()
        assert world.finished(job.id).state is JobState.SUCCEEDED
    loser, winner = sorted(world.attempts(job.id), key=lambda each: each.lane)
    assert (loser.state, winner.state) == (AttemptState.DONE, AttemptState.DONE)
    return loser, winner


def test_a_loser_that_had_finished_is_booked_for_what_it_made(make: MakeWorld) -> None:
    world = hedged(make)
    makes_one_less(world, "fal:1")
    loser, winner = finish_both(world, Says(404), num_images=3, seed=None)
    assert (loser.charge_microusd, winner.charge_microusd) == (2 * PRICE_MICROUSD, 3 * PRICE_MICROUSD)
    assert booked(world, loser.job_id) == world.bill()


def test_a_loser_whose_images_came_is_booked_by_their_pixels(make: MakeWorld) -> None:
    world = hedged(make)
    price(world, Sheet(per_megapixel_microusd=PRICE_MICROUSD))
    for name in ("fal:1", "fal:2"):
        world.stub(name).image = png(2000, 1000)
    loser, winner = finish_both(world)
    assert loser.charge_microusd == winner.charge_microusd == 2 * PRICE_MICROUSD


@pytest.mark.parametrize("ends", ["by itself", "while it is stopped"])
def test_an_attempt_that_is_paid_by_the_second_is_booked_for_its_time(make: MakeWorld, ends: str) -> None:
    clock = HandClock()
    world = make("fal", clock=clock)
    price(world, Sheet(per_second_microusd=1_000))
    stub = world.stub("fal")
    stub.plan = ("running",)
    usual = stub.answer

    def done_when_cancelled(request: object) -> Says:
        if request.station == "cancel":  # type: ignore[attr-defined]
            for each in stub.jobs.values():
                each.plan[0] = "done"
        return usual(request)

    if ends == "by itself":
        stub.script("download", *[Says(404)] * 3)  # it is paid, and nothing comes of it
    else:
        stub.answer = done_when_cancelled
    with world.gateway():
        job = world.edit()
        until(lambda: world.states(job.id) == [AttemptState.ACCEPTED])
        clock.move(4)
        if ends == "by itself":
            next(iter(stub.jobs.values())).plan.append("done")
        else:
            world.service.cancel(ANNE, job.id)
        world.finished(job.id)
    (attempt,) = world.attempts(job.id)
    assert attempt.state is AttemptState.DONE
    assert attempt.charge_microusd == 4_000


def test_an_answer_that_comes_after_the_jobs_end_says_what_is_owed(make: MakeWorld) -> None:
    world = make("openai")
    stub = world.stub("openai")
    goes_on = threading.Event()
    usual = stub.answer

    def late(request: object) -> Says:
        goes_on.wait(20)
        return usual(request)

    stub.answer = late
    job = world.edit()
    lease = world.service.lease("gateway-a", QUEUES, 60.0)
    assert lease is not None
    run = EditRun(world.parts(), lease)
    thread = threading.Thread(target=run.run)
    thread.start()
    until(lambda: world.submits("openai") == 1)
    world.service.fail(lease, InternalError("It has ended elsewhere.").failure)
    assert world.states(job.id) == [AttemptState.UNKNOWN]
    goes_on.set()
    thread.join()
    assert world.states(job.id) == [AttemptState.DONE]
    assert booked(world, job.id) == world.bill() == PRICE_MICROUSD


def test_images_beside_a_call_that_failed_are_booked_by_what_came(make: MakeWorld) -> None:
    world = make("fal")
    price(world, Sheet(per_megapixel_microusd=PRICE_MICROUSD))
    stub = world.stub("fal")
    stub.image = png(2000, 1000)
    stub.script(
        "result", Says.json(422, {"detail": [{"loc": ["body"], "msg": "No.", "type": "content_policy_violation"}]})
    )
    with world.gateway():
        job = world.finished(world.edit(num_images=2).id)
    assert job.state is JobState.FAILED
    made = [each for each in world.attempts(job.id) if each.state is AttemptState.DONE]
    assert [each.charge_microusd for each in made] == [2 * PRICE_MICROUSD]


# Who may be asked as well.


def test_a_hedge_keeps_to_what_its_upstream_has_room_for(make: MakeWorld) -> None:
    world = hedged(make)
    world.connections["fal:2"] = replace(world.connections["fal:2"], max_in_flight=1)
    first, second = world.stub("fal:1"), world.stub("fal:2")
    second.plan = ("running",)
    first.plan = SLOW
    with world.gateway():
        there = world.edit(model=f"fal:2/{MODEL}", seed=1)
        until(lambda: world.submits("fal:2") == 1)
        assert world.finished(world.edit(seed=2).id).state is JobState.SUCCEEDED
        assert world.submits("fal:2") == 1, "there is no room"
        next(iter(second.jobs.values())).plan.append("done")
        assert world.finished(there.id).state is JobState.SUCCEEDED
        second.plan = ("done",)
        assert world.finished(world.edit(seed=3).id).state is JobState.SUCCEEDED
        assert world.submits("fal:2") == 2, "there is room again"


def test_a_hedge_takes_the_room_it_is_given(make: MakeWorld) -> None:
    world = hedged(make)
    world.connections["fal:2"] = replace(world.connections["fal:2"], max_in_flight=1)
    first, second = world.stub("fal:1"), world.stub("fal:2")
    first.plan = second.plan = ("running",)
    with world.gateway():
        hedge = world.edit(seed=1)
        until(lambda: world.submits("fal:2") == 1)
        first.plan = SLOW
        assert world.finished(world.edit(seed=2).id).state is JobState.SUCCEEDED
        assert world.submits("fal:2") == 1, "the first hedge is there"
        next(iter(first.jobs.values())).plan.append("done")
        assert world.finished(hedge.id).state is JobState.SUCCEEDED
    assert len(second.at("cancel")) == 1


def test_a_half_open_target_whose_hedge_has_lost_is_tried_by_the_next_edit(make: MakeWorld) -> None:
    clock = HandClock(running=True)
    world = hedged(make, clock=clock)
    first, second = world.stub("fal:1"), world.stub("fal:2")
    second.script("submit", Says.json(401, {"detail": "No such key."}))
    first.plan = second.plan = ("running",)
    with world.gateway():
        world.finished(world.edit(model=f"fal:2/{MODEL}").id)
        clock.move(16)
        hedge = world.edit(seed=1)
        until(lambda: world.submits("fal:2") == 2)
        next(iter(first.jobs.values())).plan.append("done")
        assert world.finished(hedge.id).state is JobState.SUCCEEDED
        assert [(bool(row.cause), row.probe) for row in world.breakers()] == [(True, None)], "nothing was found out"
        second.plan = ("done",)
        assert world.finished(world.edit(seed=2).id).state is JobState.SUCCEEDED
    assert [row.cause for row in world.breakers()] == [""]


def test_a_hedge_to_a_half_open_target_is_the_one_that_tries_it(make: MakeWorld) -> None:
    clock = HandClock(running=True)
    world = hedged(make, clock=clock)
    first, second = world.stub("fal:1"), world.stub("fal:2")
    second.script("submit", Says.json(401, {"detail": "No such key."}))
    first.plan = second.plan = ("running",)
    with world.gateway():
        world.finished(world.edit(model=f"fal:2/{MODEL}").id)
        clock.move(16)
        hedge = world.edit(seed=1)
        until(lambda: world.submits("fal:2") == 2)
        first.plan = SLOW
        assert world.finished(world.edit(seed=2).id).state is JobState.SUCCEEDED
        assert world.submits("fal:2") == 2, "one edit at a time finds out"
        assert [row.probe for row in world.breakers()] == [hedge.id]
        next(iter(second.jobs.values())).plan.append("done")
        assert world.finished(hedge.id).state is JobState.SUCCEEDED
    assert [row.cause for row in world.breakers()] == [""], "it works again"


# When it ends, and what is left of it.


def test_a_loser_that_is_stuck_in_a_download_does_not_hold_up_the_winner(make: MakeWorld) -> None:
    world = hedged(make)
    first = world.stub("fal:1")
    goes_on = threading.Event()
    usual = first._usual

    def stuck_download(request: object) -> Says:
        if request.station == "download":  # type: ignore[attr-defined]
            goes_on.wait(60)
        return usual(request)

    first._usual = stuck_download
    try:
        with world.gateway():
            job = world.edit()
            assert world.finished(job.id).state is JobState.SUCCEEDED
            assert not goes_on.is_set()
            assert booked(world, job.id) == world.bill() == 2 * PRICE_MICROUSD
    finally:
        goes_on.set()


def test_what_a_loser_made_is_not_kept(make: MakeWorld) -> None:
    world = hedged(make)
    loser, _ = finish_both(world)
    job = world.service.get_any(loser.job_id)
    assert job.output is not None
    kept = [file.name for file in world.folder.rglob("outputs/**/*") if file.is_file()]
    assert [Path(image.blob).name for image in job.output.images] == kept


def test_a_hedge_that_has_lost_before_it_was_sent_is_not_waited_for(make: MakeWorld) -> None:
    world = hedged(make, settings=GatewaySettings(deadline_s=120.0))
    first, second = world.stub("fal:1"), world.stub("fal:2")
    first.plan = second.plan = ("queued",)
    (rule,) = world.routes.rules
    usual = rule.targets[1].normalise
    assert usual is not None

    def normalise(*asked: object, **how: object) -> object:
        if first.jobs:  # it is to be asked as well; the first one ends just now
            next(iter(first.jobs.values())).plan.append("done")
            until(lambda: not any(thread.name in ("lane", "first") for thread in threading.enumerate()))
        return usual(*asked, **how)  # type: ignore[arg-type]

    targets = (rule.targets[0], replace(rule.targets[1], normalise=normalise))
    world.routes = replace(world.routes, rules=(replace(rule, targets=targets),))
    with world.gateway():
        job = world.finished(world.edit().id)
        assert job.state is JobState.SUCCEEDED
    assert world.bill() == booked(world, job.id) == PRICE_MICROUSD
