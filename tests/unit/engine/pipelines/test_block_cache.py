"""Blocks reused over steps: exact when nothing may be reused, per edit, and never without saying so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from retouch.edit import Acceleration, EditSpec
from retouch.engine.engine import Engine
from retouch.engine.pipeline import DenoiseState
from retouch.engine.pipelines import load_pipeline
from retouch.engine.pipelines.acceleration import RULES, BlockCache, ReuseRules
from retouch.engine.pipelines.qwen_image_edit import QwenImageEdit
from retouch.images import Pixels
from tests.tiny_checkpoints import checkpoint, coloured_blocks, shared

PHOTO = coloured_blocks(1, 150, 90)
STEPS = 12


@pytest.fixture(scope="module", params=["plus", "plus-2511"])
def pipeline(request: pytest.FixtureRequest) -> QwenImageEdit:
    torch.set_num_threads(1)
    loaded = load_pipeline(replace(checkpoint(shared(request.param)), block_cache=True), device="cpu")
    assert isinstance(loaded, QwenImageEdit)
    return loaded


def spec(acceleration: Acceleration, prompt: str = "make it grayscale", **changes: object) -> EditSpec:
    values = EditSpec(prompt, width=96, height=64, seed=1, steps=STEPS, guidance_scale=2.0, acceleration=acceleration)
    return replace(values, **changes)


def finish(pipeline: QwenImageEdit, state: DenoiseState) -> Pixels:
    while not state.done:
        pipeline.denoise([state])
    return pipeline.decode(state)


def run(pipeline: QwenImageEdit, edit: EditSpec) -> Pixels:
    return finish(pipeline, pipeline.prepare(edit, [PHOTO]))


def cached(pipeline: QwenImageEdit, rules: ReuseRules, **changes: object) -> tuple[Pixels, BlockCache]:
    state = pipeline.prepare(spec(Acceleration.REGULAR, **changes), [PHOTO])
    state.extras["block_cache"] = cache = BlockCache(rules)
    return finish(pipeline, state), cache


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_threshold_of_0_is_the_exact_edit(pipeline: QwenImageEdit, guidance: float) -> None:
    pixels, cache = cached(pipeline, ReuseRules(0.0, warm_up=0, last=0, in_a_row=99), guidance_scale=guidance)
    assert cache.reused == 0
    np.testing.assert_array_equal(pixels, run(pipeline, spec(Acceleration.NONE, guidance_scale=guidance)))


def test_no_more_steps_are_reused_than_the_rules_allow(pipeline: QwenImageEdit) -> None:
    _, cache = cached(pipeline, ReuseRules(float("inf"), warm_up=3, last=2, in_a_row=2))
    # three whole, then two of three, then the last two whole: 3 4 . 6 7 . 9 of the steps 0 to 11
    assert cache.reused == 5
    _, cache = cached(pipeline, ReuseRules(float("inf"), warm_up=STEPS, last=0, in_a_row=2))
    assert cache.reused == 0


def test_a_reused_step_runs_one_block(pipeline: QwenImageEdit) -> None:
    calls = {"first": 0, "later": 0}

    def count(name: str) -> object:
        return lambda *_: calls.__setitem__(name, calls[name] + 1)

    blocks = pipeline.network.transformer.transformer_blocks
    hooks = [blocks[0].img_mlp.register_forward_hook(count("first"))]
    hooks += [blocks[1].img_mlp.register_forward_hook(count("later"))]
    _, cache = cached(pipeline, ReuseRules(float("inf"), warm_up=1, last=0, in_a_row=1), guidance_scale=1.0)
    for hook in hooks:
        hook.remove()
    assert calls == {"first": STEPS, "later": STEPS - cache.reused}
    assert cache.reused == 6


def test_edits_in_turns_are_byte_for_byte_as_alone(pipeline: QwenImageEdit) -> None:
    edits = [
        spec(Acceleration.REGULAR, seed=3),
        spec(Acceleration.NONE, seed=4),
        spec(Acceleration.HIGH, "make it night", seed=5, width=64, guidance_scale=1.0),
        spec(Acceleration.HIGH, seed=6, steps=STEPS + 3),
    ]
    alone = [run(pipeline, edit) for edit in edits]
    engine = Engine(pipeline)
    names = [engine.add(edit, [PHOTO]) for edit in edits]
    finished: dict[str, Pixels] = {}
    while engine.busy:
        finished |= {done.edit_id: done.pixels for done in engine.step().finished}
    for name, expected in zip(names, alone, strict=True):
        np.testing.assert_array_equal(finished[name], expected)


@pytest.mark.parametrize("acceleration", [Acceleration.REGULAR, Acceleration.HIGH])
def test_an_answer_says_how_many_steps_were_reused(pipeline: QwenImageEdit, acceleration: Acceleration) -> None:
    state = pipeline.prepare(spec(acceleration), [PHOTO])
    finish(pipeline, state)
    [notice] = state.notices
    assert (notice.parameter, notice.action) == ("acceleration", "applied")
    assert f"{state.extras['block_cache'].reused} of {STEPS} steps" in notice.detail


def test_high_is_bolder_than_regular() -> None:
    regular, high = RULES[Acceleration.REGULAR], RULES[Acceleration.HIGH]
    assert high.threshold > regular.threshold
    assert high.in_a_row > regular.in_a_row


def test_what_is_remembered_is_counted_as_memory(pipeline: QwenImageEdit) -> None:
    state = pipeline.prepare(spec(Acceleration.REGULAR), [PHOTO])
    pipeline.denoise([state])
    cache = state.extras["block_cache"]
    held = sum(tensor.nbytes for tensor in (*cache.first, *cache.rest))
    exact, faster = (pipeline.memory_bytes(spec(a), 1) for a in (Acceleration.NONE, Acceleration.REGULAR))
    assert faster - exact == held
