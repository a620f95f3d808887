"""A hosted edit through the real service, runner and upstreams, before stub providers: the ways it can end."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from retouch.catalog.normalised import Normalised
from retouch.catalog.profiles import Sheet
from retouch.edit import Bucket, EditRequest
from retouch.jobs.attempts import AttemptState
from retouch.jobs.breakers import MIN_FAILURES
from retouch.jobs.job import JobState
from retouch.upstreams.routes import Circumstances, GatewaySettings, RouteRule, plan
from tests.harness import ANNE, HandClock
from tests.upstreams.gateway_world import TIMES, MakeWorld, code_of
from tests.upstreams.stubs.server import PRICE_MICROUSD, Closes, Reset, Says, Silence
from tests.waiting import until


@pytest.mark.parametrize("kind", ["fal", "runpod", "openai"])
def test_an_edit_is_made_by_a_provider_and_delivered_and_billed_once(make: MakeWorld, kind: str) -> None:
    world = make(kind)
    with world.gateway():
        job = world.finished(world.edit().id)
    assert job.state is JobState.SUCCEEDED, job.failure
    assert job.output is not None
    (image,) = job.output.images
    assert world.blobs.get(image.blob).data.startswith(b"\x89PNG")
    (attempt,) = world.attempts(job.id)
    assert attempt.state is AttemptState.DONE
    assert attempt.settled_at is not None
    assert attempt.charge_microusd == world.bill() == PRICE_MICROUSD
    assert job.usage is not None
    assert job.usage.price_microusd == PRICE_MICROUSD


def test_a_target_that_cannot_be_reached_is_left_for_the_next_one(make: MakeWorld) -> None:
    world = make("fal", "openai")
    world.stub("fal").close()
    with world.gateway():
        job = world.finished(world.edit().id)
    assert job.state is JobState.SUCCEEDED
    causes = [each.cause for each in world.attempts(job.id)]
    assert causes == ["unreachable"] * 3 + [None]


@pytest.mark.parametrize("part", [0.1, 0.9])
def test_a_reset_during_the_upload_is_never_unknown(make: MakeWorld, part: float) -> None:
    world = make("openai", "fal")
    world.stub("openai").script("submit", *[Reset(at=part)] * 3)
    with world.gateway():
        job = world.finished(world.edit(images=(world.upload(bytes_of_an_image()),)).id)
    assert job.state is JobState.SUCCEEDED
    assert AttemptState.UNKNOWN not in world.states(job.id)
    assert world.attempts(job.id)[-1].target.startswith("fal/")


def bytes_of_an_image() -> bytes:
    """A file that no socket's buffer swallows whole."""
    from tests.harness import png

    return png() + bytes(8 << 20)


@pytest.mark.parametrize("kind", ["openai", "runpod"])
@pytest.mark.parametrize("fault", [Reset(), Closes(), Silence()], ids=["reset", "close", "silence"])
def test_a_lost_answer_is_never_submitted_again_and_ends_as_unknown(make: MakeWorld, kind: str, fault: object) -> None:
    world = make(kind, "fal", settings=GatewaySettings(deadline_s=2.0))
    world.stub(kind).script("submit", fault)
    with world.gateway():
        job = world.finished(world.edit().id)
    assert world.submits(kind) == 1
    assert world.submits("fal") == 0
    assert code_of(job) in ("upstream_outcome_unknown", "generation_timeout")
    (attempt,) = world.attempts(job.id)
    assert (attempt.state, attempt.charge_microusd) == (AttemptState.UNKNOWN, 0)
    assert attempt.hold_microusd == PRICE_MICROUSD


def test_a_lost_submit_is_found_in_the_history_and_collected(make: MakeWorld) -> None:
    world = make("fal", "openai")
    world.stub("fal").script("submit", Closes())
    with world.gateway():
        job = world.finished(world.edit().id)
    assert job.state is JobState.SUCCEEDED, job.failure
    assert world.submits("fal") == 1
    (attempt,) = world.attempts(job.id)
    assert (attempt.state, attempt.charge_microusd) == (AttemptState.DONE, PRICE_MICROUSD)


def test_images_without_a_seed_are_one_call_and_with_one_a_call_each(make: MakeWorld) -> None:
    world = make("fal")
    with world.gateway():
        drawn = world.finished(world.edit(num_images=3, seed=None).id)
        given = world.finished(world.edit(num_images=3, seed=7).id)
    (attempt,) = world.attempts(drawn.id)
    first, *others = world.stub("fal").at("submit")
    assert (first.json["num_images"], first.json["seed"]) == (3, attempt.seed)
    assert drawn.output is not None
    assert [image.seed for image in drawn.output.images] == [attempt.seed, attempt.seed + 1, attempt.seed + 2]
    assert drawn.request.seed is None
    assert sorted(each.json["seed"] for each in others) == [7, 8, 9]
    assert sorted(each.seed for each in world.attempts(given.id)) == [7, 8, 9]
    assert world.bill() == 6 * PRICE_MICROUSD


def test_an_unknown_outcome_is_repeated_where_the_operator_wants_it_and_both_are_booked(make: MakeWorld) -> None:
    world = make("openai", settings=GatewaySettings(deadline_s=10.0, on_unknown="repeat"))
    world.stub("openai").script("submit", Closes())
    with world.gateway():
        job = world.finished(world.edit().id)
    assert job.state is JobState.SUCCEEDED
    assert world.states(job.id) == [AttemptState.UNKNOWN, AttemptState.DONE]
    assert sum(each.charge_microusd or 0 for each in world.attempts(job.id)) == world.bill() == 2 * PRICE_MICROUSD
    lines = [event.data.get("message", "") for event in world.service.events(job.id) if event.kind == "log"]
    assert any("both are booked" in str(line) for line in lines)


def test_a_throttled_target_is_asked_again_when_it_says(make: MakeWorld) -> None:
    world = make("fal", "openai")
    world.stub("fal").script("submit", Says(429, b"{}", {"Retry-After": "0"}))
    with world.gateway():
        job = world.finished(world.edit().id)
    assert (world.submits("fal"), world.submits("openai")) == (2, 0)
    assert job.state is JobState.SUCCEEDED


def test_a_target_that_wants_an_hour_is_left_at_once(make: MakeWorld) -> None:
    world = make("fal", "openai")
    world.stub("fal").script("submit", Says(429, b"{}", {"Retry-After": "3600"}))
    with world.gateway():
        world.finished(world.edit().id)
    assert (world.submits("fal"), world.submits("openai")) == (1, 1)


def test_a_refusal_is_the_callers_and_no_other_target_is_tried(make: MakeWorld) -> None:
    world = make("openai", "fal")
    refusal = {"error": {"message": "No.", "code": "content_policy_violation", "type": "x"}}
    world.stub("openai").script("submit", Says.json(400, refusal))
    with world.gateway():
        job = world.finished(world.edit().id)
    assert code_of(job) == "content_refused"
    assert world.submits("fal") == 0
    assert world.breakers() == ()


def test_a_used_up_allowance_opens_the_breaker_at_once(make: MakeWorld) -> None:
    world = make("openai", "fal")
    broke = {"error": {"message": "Pay first.", "code": "insufficient_quota", "type": "x"}}
    world.stub("openai").script("submit", Says.json(429, broke))
    with world.gateway():
        first = world.finished(world.edit().id)
        second = world.finished(world.edit().id)
    assert first.state is second.state is JobState.SUCCEEDED
    assert world.submits("openai") == 1
    assert [row.cause for row in world.breakers()] == ["quota"]


def test_all_targets_failing_names_each_with_its_cause_and_time(make: MakeWorld) -> None:
    world = make("fal", "openai")
    world.stub("fal").close()
    world.stub("openai").script("submit", *[Says.json(500, {"error": {"message": "Broken."}})] * 3)
    with world.gateway():
        job = world.finished(world.edit().id)
    assert code_of(job) == "all_providers_exhausted"
    assert job.failure is not None
    for words in ("fal/fal-ai/qwen-image-edit-plus: unreachable", "openai/gpt-image-1: server", " s"):
        assert words in job.failure.message
    assert job.failure.context["may_be_owed"], "a paid provider that fails by itself may charge"


def test_targets_that_took_nothing_owe_nothing(make: MakeWorld) -> None:
    world = make("fal")
    world.stub("fal").script("submit", Says.json(401, {"detail": "No such key."}))
    with world.gateway():
        job = world.finished(world.edit().id)
    assert job.failure is not None
    assert job.failure.context["may_be_owed"] is False
    assert "may charge" not in job.failure.message


def test_an_edit_that_never_ends_is_cancelled_there_at_the_deadline(make: MakeWorld) -> None:
    world = make("fal", settings=GatewaySettings(deadline_s=1.0))
    world.stub("fal").plan = ("running",)
    with world.gateway() as gateway:
        job = world.finished(world.edit().id)
        until(lambda: gateway.busy == 0)
    assert code_of(job) == "generation_timeout"
    assert len(world.stub("fal").at("cancel")) == 1
    assert world.submits("fal") == 1


def test_a_cancel_reaches_the_provider_and_what_has_not_begun_is_free(make: MakeWorld) -> None:
    world = make("fal")
    world.stub("fal").plan = ("queued",)
    with world.gateway():
        job = world.edit()
        until(lambda: world.states(job.id) == [AttemptState.ACCEPTED])
        world.service.cancel(ANNE, job.id)
        assert world.finished(job.id).state is JobState.CANCELLED
    assert len(world.stub("fal").at("cancel")) == 1
    (attempt,) = world.attempts(job.id)
    assert (attempt.state, attempt.charge_microusd) == (AttemptState.ABANDONED, 0)


def test_a_cancel_hangs_up_on_a_provider_whose_answer_is_the_image(make: MakeWorld) -> None:
    world = make("openai")
    world.stub("openai").script("submit", Silence())
    with world.gateway():
        job = world.edit()
        until(lambda: world.states(job.id) == [AttemptState.SENDING])
        until(lambda: world.submits("openai") == 1)
        world.service.cancel(ANNE, job.id)
        assert world.finished(job.id).state is JobState.CANCELLED
    assert world.states(job.id) == [AttemptState.UNKNOWN]


def test_what_callers_cancel_says_nothing_of_the_provider_that_was_hung_up_on(make: MakeWorld) -> None:
    world = make("openai")
    stub = world.stub("openai")
    stub.script("submit", *[Silence()] * MIN_FAILURES)
    with world.gateway():
        jobs = [world.edit(seed=seed) for seed in range(MIN_FAILURES)]
        until(lambda: world.submits("openai") == MIN_FAILURES)
        for job in jobs:
            world.service.cancel(ANNE, job.id)
        assert {world.finished(job.id).state for job in jobs} == {JobState.CANCELLED}
        assert not world.breakers()
        assert {attempt.counts for job in jobs for attempt in world.attempts(job.id)} == {None}


def test_what_a_provider_made_too_few_of_is_made_up_for(make: MakeWorld) -> None:
    world = make("fal")
    with world.gateway():
        job = world.finished(world.edit(num_images=4).id)
    assert job.output is not None
    assert len(job.output.images) == 4
    assert [image.seed for image in job.output.images] == [7, 8, 9, 10]
    assert world.bill() == sum(each.charge_microusd or 0 for each in world.attempts(job.id)) == 4 * PRICE_MICROUSD


def test_a_forced_target_knows_no_other(make: MakeWorld) -> None:
    world = make("openai", "fal")
    world.stub("fal").close()
    with world.gateway():
        job = world.finished(world.edit(model="fal/qwen-image-edit-plus").id)
    assert code_of(job) == "all_providers_exhausted"
    assert world.submits("openai") == 0


def test_a_dead_link_is_read_anew_and_a_lost_result_is_paid_and_never_made_again(make: MakeWorld) -> None:
    world = make("fal", "openai")
    world.stub("fal").script("download", *[Says(404)] * 20)
    with world.gateway():
        job = world.finished(world.edit().id)
    assert code_of(job) == "upstream_result_lost"
    assert (world.submits("fal"), world.submits("openai")) == (1, 0)
    assert len(world.stub("fal").at("download")) == 3
    (attempt,) = world.attempts(job.id)
    assert attempt.charge_microusd == world.bill()


def test_what_is_no_image_is_reported(make: MakeWorld) -> None:
    world = make("fal")
    world.stub("fal").image = b"<html>"
    with world.gateway():
        job = world.finished(world.edit().id)
    assert code_of(job) == "upstream_bad_image"
    assert world.submits("fal") == 1
    assert len(world.stub("fal").at("download")) == 3


def test_a_slow_target_is_raced_by_one_whose_cancel_is_free_and_the_loser_is_cancelled(make: MakeWorld) -> None:
    world = make("fal:1", "fal:2", rule={"hedge_after_s": 0.3})
    world.stub("fal:1").plan = ("queued",)
    with world.gateway():
        job = world.finished(world.edit().id)
    assert job.state is JobState.SUCCEEDED
    loser, winner = sorted(world.attempts(job.id), key=lambda each: each.lane)
    assert (loser.state, loser.charge_microusd) == (AttemptState.ABANDONED, 0)
    assert (winner.state, winner.target) == (AttemptState.DONE, "fal:2/fal-ai/qwen-image-edit-plus")
    assert len(world.stub("fal:1").at("cancel")) == 1
    assert world.bill() == PRICE_MICROUSD
    assert job.output is not None
    assert len(job.output.images) == 1


def test_a_target_that_charges_for_what_is_cancelled_is_never_a_hedge(make: MakeWorld) -> None:
    world = make("fal", "openai", rule={"hedge_after_s": 0.1})
    world.stub("fal").plan = ("running",) * 30 + ("done",)
    with world.gateway():
        job = world.finished(world.edit().id)
    assert job.state is JobState.SUCCEEDED
    assert world.submits("openai") == 0


def test_a_first_target_that_fails_fast_is_no_race(make: MakeWorld) -> None:
    world = make("fal:1", "fal:2", rule={"hedge_after_s": 20.0})
    world.stub("fal:1").script("submit", Says(429, b"{}", {"Retry-After": "3600"}))
    with world.gateway():
        job = world.finished(world.edit().id)
    assert [each.lane for each in world.attempts(job.id)] == [0, 0]
    assert job.state is JobState.SUCCEEDED


def test_a_webhook_before_the_answer_to_the_submit_names_the_job_all_the_same(make: MakeWorld) -> None:
    settings = GatewaySettings(deadline_s=20.0, public_url="http://127.0.0.1:1")
    world = make("fal", settings=settings)
    stub = world.stub("fal")
    stub.lists_history = False
    stub.script("submit", Silence())
    with world.gateway() as gateway:
        job = world.edit()
        remote = until(lambda: next(iter(stub.jobs.values()), None))
        assert world.states(job.id) == [AttemptState.SENDING]
        headers, body = stub.webhook(remote)
        (attempt,) = world.attempts(job.id)
        assert gateway.webhook(attempt.id, {k.lower(): v for k, v in headers.items()}, body).value == "taken"
        assert world.states(job.id) == [AttemptState.ACCEPTED]
        for connection in list(stub._open):
            connection.shutdown(2)
        assert world.finished(job.id).state is JobState.SUCCEEDED
    assert world.submits("fal") == 1


def test_a_webhook_of_another_job_changes_nothing(make: MakeWorld) -> None:
    settings = GatewaySettings(deadline_s=20.0, public_url="http://127.0.0.1:1")
    world = make("fal", settings=settings)
    stub = world.stub("fal")
    stub.plan = ("running",)
    with world.gateway() as gateway:
        first, second = world.edit(seed=1), world.edit(seed=2)
        until(lambda: world.states(first.id) == world.states(second.id) == [AttemptState.ACCEPTED])
        others = next(each for each in stub.jobs.values() if each.input["seed"] == 2)
        headers, body = stub.webhook(others)
        before = world.attempts(first.id)
        assert gateway.webhook(before[0].id, {k.lower(): v for k, v in headers.items()}, body).value == "taken"
        assert world.attempts(first.id) == before
        for each in stub.jobs.values():
            each.plan.append("done")
        assert world.finished(first.id).state is world.finished(second.id).state is JobState.SUCCEEDED


def test_a_half_open_target_is_tried_by_one_edit_and_closes(make: MakeWorld) -> None:
    clock = HandClock(running=True)
    world = make("openai", "fal", clock=clock)
    broke = {"error": {"message": "Pay first.", "code": "insufficient_quota", "type": "x"}}
    world.stub("openai").script("submit", Says.json(429, broke), Silence())
    with world.gateway():
        world.finished(world.edit().id)
        clock.move(16)
        probe = world.edit()
        until(lambda: world.submits("openai") == 2)
        others = [world.finished(world.edit(seed=seed).id) for seed in (1, 2)]
        assert world.submits("openai") == 2, "one edit at a time finds out"
        assert {job.state for job in others} == {JobState.SUCCEEDED}
        world.service.cancel(ANNE, probe.id)
        world.finished(probe.id)
        assert [(bool(row.cause), row.probe) for row in world.breakers()] == [(True, None)], "nothing was found out"


def test_a_half_open_target_that_refused_what_it_was_tried_with_is_tried_by_the_next_edit(make: MakeWorld) -> None:
    clock = HandClock(running=True)
    world = make("openai", "fal", clock=clock)
    broke = {"error": {"message": "Pay first.", "code": "insufficient_quota", "type": "x"}}
    refused = {"error": {"message": "No.", "code": "moderation_blocked", "type": "x"}}
    world.stub("openai").script("submit", Says.json(429, broke), Says.json(400, refused))
    with world.gateway():
        world.finished(world.edit().id)
        clock.move(16)
        assert code_of(world.finished(world.edit(seed=1).id)) == "content_refused"
        world.finished(world.edit(seed=2).id)
        assert world.submits("openai") == 3
    assert [row.cause for row in world.breakers()] == [""], "it works again"


def test_an_edit_goes_to_a_provider_when_our_own_queue_has_no_worker(make: MakeWorld) -> None:
    world = make("local", "fal", overflow_after_s=20.0)
    with world.gateway():
        job = world.finished(world.edit().id)
    assert job.queue == "gateway"
    with world.worker():
        until(lambda: world.service.models()["null"] == "ready")
        here = world.finished(world.edit().id)
    assert (here.queue, here.state) == ("null", JobState.SUCCEEDED)


def test_our_own_queue_keeps_an_edit_that_no_provider_takes_over(make: MakeWorld) -> None:
    world = make("local", "fal")
    job = world.edit()
    assert job.queue == "null"


@pytest.mark.parametrize(
    ("kind", "plan", "code", "charge"),
    [
        ("fal", ("queued", "cancelled"), "delivered", 0),
        ("runpod", ("queued", "cancelled"), "delivered", 0),
        ("runpod", ("queued", "aborted"), "delivered", 0),
        ("runpod", ("running", "aborted"), "delivered", 0),
        ("replicate", ("queued", "aborted"), "delivered", 0),
        ("replicate", ("running", "cancelled"), "generation_timeout", PRICE_MICROUSD),
    ],
)
def test_a_provider_that_ends_the_edit_by_itself(
    make: MakeWorld, kind: str, plan: tuple[str, ...], code: str, charge: int
) -> None:
    """What is not charged is made elsewhere; what is charged is not made twice."""
    world = make(kind, "fal:2")
    world.stub(kind).plan = plan
    with world.gateway():
        job = world.finished(world.edit().id)
    assert (code_of(job) if job.failure else "delivered") == code
    assert world.attempts(job.id)[0].charge_microusd == charge
    assert world.submits(kind) == 1
    assert world.submits("fal:2") == (1 if code == "delivered" else 0)


def test_a_task_that_its_provider_no_longer_knows_is_not_made_again(make: MakeWorld) -> None:
    world = make("fal", "fal:2")
    stub = world.stub("fal")
    stub.plan = ("running",)
    with world.gateway():
        job = world.edit()
        until(lambda: world.states(job.id) == [AttemptState.ACCEPTED])
        stub.jobs.clear()
        assert code_of(world.finished(job.id)) == "upstream_outcome_unknown"
    assert world.submits("fal:2") == 0


@pytest.mark.parametrize("kind", ["runpod", "lumenfall"])
def test_what_a_provider_says_it_cost_wins_over_the_sheet(make: MakeWorld, kind: str) -> None:
    world = make(kind)
    sheet = replace(world.providers[kind].target, sheet=Sheet(per_image_microusd=999_999))
    world.routes = replace(world.routes, rules=(RouteRule("*", (sheet,)),))
    with world.gateway():
        job = world.finished(world.edit().id)
    assert job.usage is not None
    assert job.usage.price_microusd == PRICE_MICROUSD == world.bill()
    (attempt,) = world.attempts(job.id)
    assert (attempt.charge_microusd, attempt.hold_microusd) == (PRICE_MICROUSD, 999_999)


def test_the_hold_of_an_unknown_submit_is_kept_where_the_operator_wants_it(make: MakeWorld) -> None:
    world = make("openai", settings=GatewaySettings(deadline_s=5.0, keep_unknown_hold=True))
    world.stub("openai").script("submit", Closes())
    with world.gateway():
        job = world.finished(world.edit().id)
    assert code_of(job) == "upstream_outcome_unknown"
    assert [each.charge_microusd for each in world.attempts(job.id)] == [PRICE_MICROUSD]
    assert job.usage is None, "the caller is not billed for what did not come"


def test_jobs_go_to_targets_by_their_weights(make: MakeWorld) -> None:
    world = make("fal:1", "fal:2", "fal:3", rule={"policy": "weighted"})
    (rule,) = world.routes.rules
    weighted = tuple(replace(each, weight=weight) for each, weight in zip(rule.targets, (8, 1, 1), strict=True))
    routes = replace(world.routes, rules=(replace(rule, targets=weighted),))
    request = world.edit(images=(world.upload(),)).request
    draw = random.Random(5).random
    first: Counter[str] = Counter()
    for _ in range(2000):
        chosen = plan(routes, request, Circumstances("anne"), draw)
        assert chosen is not None
        first[chosen.targets[0].upstream] += 1
    for name, weight in (("fal:1", 0.8), ("fal:2", 0.1), ("fal:3", 0.1)):
        assert abs(first[name] / 2000 - weight) < 0.03


def test_a_caller_whose_own_key_is_refused_is_told_and_no_other_key_pays(make: MakeWorld) -> None:
    world = make("lumenfall", "fal")
    world.connections["lumenfall"] = replace(world.connections["lumenfall"], own_key=True)
    wrong = {"error": {"message": "Incorrect key.", "code": "invalid_api_key", "type": "x"}}
    world.stub("lumenfall").script("submit", Says.json(401, wrong))
    with world.gateway():
        job = world.finished(world.edit().id)
    assert code_of(job) == "permission_denied"
    assert world.submits("fal") == 0


def test_a_caller_without_a_stored_key_is_led_to_the_next_target(make: MakeWorld) -> None:
    world = make("lumenfall", "fal")
    del world.connections["lumenfall"]
    with world.gateway():
        job = world.finished(world.edit().id)
    assert job.state is JobState.SUCCEEDED
    assert (world.submits("lumenfall"), world.submits("fal")) == (0, 1)


@pytest.mark.parametrize(("on_missing", "state"), [("complete", JobState.SUCCEEDED), ("fail", JobState.FAILED)])
def test_too_few_images_are_made_up_for_or_fail_as_the_operator_says(
    make: MakeWorld, on_missing: str, state: JobState
) -> None:
    settings = GatewaySettings(deadline_s=20.0, on_missing=on_missing)  # type: ignore[arg-type]
    world = make("fal", settings=settings)
    stub = world.stub("fal")
    usual = stub.answer

    def two_at_most(request: object) -> Says:
        answer = usual(request)
        for job in stub.jobs.values():
            job.images = min(job.images, 2)
        return answer

    stub.answer = two_at_most
    normaliser = world.providers["fal"].target.normalise

    def natively(request: EditRequest, *given: object, **named: object) -> Normalised:
        made = normaliser(request, *given, **named)  # type: ignore[misc, arg-type]
        parameters = {**made.parameters, "num_images": request.num_images}
        return replace(made, calls=1, images_per_call=request.num_images, parameters=parameters)

    target = replace(world.providers["fal"].target, normalise=natively)  # type: ignore[arg-type]
    world.routes = replace(world.routes, rules=(RouteRule("*", (target,)),))
    with world.gateway():
        job = world.finished(world.edit(num_images=4).id)
    assert job.state is state
    charges = [each.charge_microusd for each in world.attempts(job.id)]
    assert charges == [2 * PRICE_MICROUSD] * (2 if on_missing == "complete" else 1)
    assert sum(charge or 0 for charge in charges) == world.bill()
    if job.output is not None:
        assert [image.seed for image in job.output.images] == [7, 8, 9, 10]


def test_a_bucket_that_cannot_be_reached_is_reported_and_our_link_stays(make: MakeWorld) -> None:
    world = make("fal")
    bucket = Bucket("http://127.0.0.1:9", "pictures", "theirs", "their-secret")
    with world.gateway():
        job = world.finished(world.edit(bucket=bucket).id)
    assert job.output is not None
    assert [notice.parameter for notice in job.output.notices][-1:] == ["bucket"]
    assert job.output.images[0].delivered_url is None


@pytest.mark.parametrize("kind", ["fal", "openai"])
def test_a_stop_does_not_wait_for_a_provider_that_never_answers(make: MakeWorld, kind: str) -> None:
    world = make(kind, answer_s=30.0)
    world.stub(kind).script("submit", Silence())
    gateway = world.new_gateway(times=replace(TIMES, stop_s=0.2))
    gateway.start()
    job = world.edit()
    until(lambda: world.submits(kind) == 1)
    gateway.stop()
    assert gateway.busy == 0
    assert world.state(job.id) is JobState.QUEUED, "another server goes on with it"
    assert world.states(job.id) == [AttemptState.UNKNOWN]
    with world.gateway():
        done = world.finished(job.id)
    assert world.submits(kind) == 1
    assert (code_of(done) if done.failure else "found") == ("found" if kind == "fal" else "upstream_outcome_unknown")
