"""Seconds predicted before an edit runs, and how measured steps correct them."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from retouch.catalog import checkpoint_named
from retouch.edit import EditRequest, EditSpec, ImageInput, SizeRequest
from retouch.engine.cost import Cost, CostLearner, Stage, Work, seconds_on, work_of, work_of_spec

LARGE = checkpoint_named("qwen-image-edit-2511")
REQUEST = EditRequest(
    "qwen-image-edit-plus", "make it grey", (ImageInput(url="https://example.com/a.png"),), steps=40, guidance_scale=4.0
)
SHAPES = [
    Work(target, target * references, 100, branches, steps)
    for target in (1024, 4096, 16384)
    for references in (1, 2, 3)
    for branches in (1, 2)
    for steps in (4, 40)
]
DEVICE = Cost({"denoise": (0.01, 2.4e-5, 2.0e-9), "prepare": (0.05, 3.0e-5, 1.0e-4), "decode": (0.02, 4.0e-5)})
STAGES: tuple[Stage, ...] = ("prepare", "denoise", "decode")


def learnt(device: Cost, shapes: list[Work], *, noise: float = 0.0, known: Cost | None = None) -> Cost:
    dice, learner = random.Random(1), CostLearner(known)
    for _ in range(9):
        for work in shapes:
            for stage in STAGES:
                learner.observe(work, stage, device.seconds_of(work, stage) * (1 + dice.uniform(-noise, noise)))
    return learner.cost


def worst_error(cost: Cost, shapes: list[Work]) -> float:
    return max(abs(cost.seconds(work) / DEVICE.seconds(work) - 1) for work in shapes)


def test_a_cost_asked_for_in_between_is_that_of_all_that_was_measured() -> None:
    dice, steady, queried = random.Random(2), CostLearner(), CostLearner()
    for _ in range(3):
        for work in [*SHAPES, *(replace(work, text=500) for work in SHAPES)]:  # more than are kept
            for stage in STAGES:
                seconds = DEVICE.seconds_of(work, stage) * dice.uniform(0.5, 2)
                steady.observe(work, stage, seconds)
                queried.observe(work, stage, seconds)
                if dice.random() < 0.1:
                    assert queried.cost
    assert queried.cost == steady.cost


def test_the_prior_is_what_was_published_for_the_large_model() -> None:
    assert Cost().seconds(work_of(replace(REQUEST, guidance_scale=1.0), LARGE)) == pytest.approx(8.7, rel=0.1)
    assert Cost().seconds(work_of(REQUEST, LARGE)) == pytest.approx(17.3, rel=0.1)


def test_more_of_anything_costs_more() -> None:
    plain = Cost().seconds(work_of(REQUEST, LARGE))
    assert Cost().seconds(work_of(replace(REQUEST, images=REQUEST.images * 2), LARGE)) > 1.5 * plain
    assert Cost().seconds(work_of(replace(REQUEST, size=SizeRequest(width=2048, height=2048)), LARGE)) > 2 * plain
    assert Cost().seconds(work_of(replace(REQUEST, prompt="grey " * 150), LARGE)) > plain
    assert Cost().seconds(work_of(replace(REQUEST, steps=8), LARGE)) < plain / 4
    assert Cost().seconds(work_of(replace(REQUEST, guidance_scale=1.0), LARGE)) < plain / 1.9


def test_the_work_of_a_request_is_that_of_the_spec_it_becomes() -> None:
    spec = EditSpec("make it grey", 1024, 1024, seed=1, steps=40, guidance_scale=4.0)
    assert work_of_spec(spec, 1, LARGE) == work_of(REQUEST, LARGE)


def test_measured_steps_of_many_shapes_are_met_within_a_few_percent() -> None:
    assert worst_error(Cost(), SHAPES) > 0.3
    assert worst_error(learnt(DEVICE, SHAPES), SHAPES) < 0.03
    assert worst_error(learnt(DEVICE, SHAPES, noise=0.2), SHAPES) < 0.1


def test_one_shape_is_enough_for_the_scale() -> None:
    slow = Cost({stage: tuple(100 * k for k in ks) for stage, ks in DEVICE.coefficients.items()})
    known = learnt(slow, SHAPES[:1])
    assert known.seconds(SHAPES[0]) == pytest.approx(slow.seconds(SHAPES[0]), rel=0.01)
    assert all(0.4 < known.seconds(work) / slow.seconds(work) < 2.5 for work in SHAPES)


def test_outliers_of_a_busy_machine_do_not_count() -> None:
    learner = CostLearner()
    for number in range(9):
        for work in SHAPES:
            for stage in STAGES:
                learner.observe(work, stage, DEVICE.seconds_of(work, stage) * (30 if number % 3 == 2 else 1))
    assert worst_error(learner.cost, SHAPES) < 0.03
    spoilt = next(work for work in SHAPES if work.steps == 4)
    for _ in range(9):
        learner.observe(spoilt, "denoise", 50 * DEVICE.seconds_of(spoilt, "denoise"))
    others = [work for work in SHAPES if work.target != spoilt.target]
    assert worst_error(learner.cost, others) < 0.1


def test_a_restart_goes_on_from_what_was_kept() -> None:
    kept = Cost.from_json(learnt(DEVICE, SHAPES).to_json())
    assert worst_error(kept, SHAPES) < 0.03
    assert worst_error(learnt(DEVICE, SHAPES[:2], known=kept), SHAPES) < 0.1


def test_an_acceleration_is_measured_against_exact_steps() -> None:
    learner = CostLearner(DEVICE)
    for work in SHAPES:
        learner.observe(work, "denoise", DEVICE.seconds_of(work, "denoise"))
        fast = replace(work, acceleration="regular")
        learner.observe(fast, "denoise", 0.5 * DEVICE.seconds_of(work, "denoise"))
    assert learner.cost.accelerations["regular"] == pytest.approx(0.5, rel=0.02)
    assert worst_error(learner.cost, SHAPES) < 0.03


def test_several_devices_are_averaged_and_none_is_the_prior() -> None:
    [work, *_] = SHAPES
    assert seconds_on((), work) == Cost().seconds(work)
    assert seconds_on((DEVICE, Cost()), work) == pytest.approx((DEVICE.seconds(work) + Cost().seconds(work)) / 2)
