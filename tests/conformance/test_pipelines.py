"""What every pipeline promises: shapes, seeds, turns that change nothing, cancel, previews, honest errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from retouch.catalog import checkpoint_named
from retouch.edit import EditSpec
from retouch.engine.engine import Engine
from retouch.engine.pipeline import Pipeline
from retouch.engine.pipelines import load_pipeline
from retouch.images import Pixels
from tests.tiny_checkpoints import checkpoint, coloured_blocks, shared

WIDE, TALL, SMALL = coloured_blocks(1, 150, 90), coloured_blocks(2, 70, 200), coloured_blocks(3, 40, 40)

NAMES = ("null", "edit", "plus", "plus-2511")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module", params=NAMES)
def pipeline(request: pytest.FixtureRequest) -> Pipeline:
    return load(request.param)


def load(name: str) -> Pipeline:
    row = checkpoint_named("null") if name == "null" else checkpoint(shared(name))
    return load_pipeline(row, device="cpu")


def spec(prompt: str = "make it grayscale", **changes: object) -> EditSpec:
    return replace(EditSpec(prompt, width=96, height=64, seed=1, steps=3, guidance_scale=2.0), **changes)


def alone(pipeline: Pipeline, edit: EditSpec, images: Sequence[Pixels] = (WIDE,)) -> Pixels:
    state = pipeline.prepare(edit, images)
    while not state.done:
        pipeline.denoise([state])
    return pipeline.decode(state)


def test_the_answer_is_uint8_of_the_canvas(pipeline: Pipeline) -> None:
    pixels = alone(pipeline, spec(width=112, height=80))
    assert pixels.shape == (80, 112, 3)
    assert pixels.dtype == np.uint8


def test_prepare_stands_before_the_first_of_steps_plus_one_sigmas(pipeline: Pipeline) -> None:
    state = pipeline.prepare(spec(steps=5), [WIDE])
    assert (state.step_index, len(state.sigmas), state.done) == (0, 6, False)
    assert state.sigmas[0] == 1.0
    assert state.sigmas[-1] == 0.0
    assert state.key.target == (4, 6)
    assert state.key.guided


def test_the_same_spec_gives_the_same_bytes(pipeline: Pipeline) -> None:
    np.testing.assert_array_equal(alone(pipeline, spec()), alone(pipeline, spec()))


def test_what_was_encoded_before_changes_nothing(pipeline: Pipeline) -> None:
    fresh = alone(pipeline, spec("never said before"))
    alone(pipeline, spec("something else"), (TALL,))
    np.testing.assert_array_equal(alone(pipeline, spec("never said before")), fresh)


def test_a_preview_has_one_pixel_per_latent_cell(pipeline: Pipeline) -> None:
    state = pipeline.prepare(spec(width=112, height=80), [WIDE])
    pipeline.denoise([state])
    preview = pipeline.preview(state)
    assert preview.shape == (10, 14, 3)
    assert preview.dtype == np.uint8


def test_a_preview_does_not_touch_the_edit(pipeline: Pipeline) -> None:
    watched = pipeline.prepare(spec(), [WIDE])
    while not watched.done:
        pipeline.denoise([watched])
        pipeline.preview(watched)
    np.testing.assert_array_equal(pipeline.decode(watched), alone(pipeline, spec()))


def test_states_with_different_keys_refuse_to_share_a_step(pipeline: Pipeline) -> None:
    states = [pipeline.prepare(spec(width=width), [WIDE]) for width in (64, 96)]
    with pytest.raises(AssertionError, match="equal keys"):
        pipeline.denoise(states)


def test_sharing_a_step_changes_nothing(pipeline: Pipeline) -> None:
    edits = [spec(seed=1), spec(seed=2, prompt="make it blue")]
    states = [pipeline.prepare(edit, [WIDE]) for edit in edits]
    while not states[0].done:
        pipeline.denoise(states)
    for state, edit in zip(states, edits, strict=True):
        np.testing.assert_array_equal(pipeline.decode(state), alone(pipeline, edit))


def test_memory_grows_with_the_canvas(pipeline: Pipeline) -> None:
    small, large = (pipeline.memory_bytes(spec(width=side, height=side), 1) for side in (64, 256))
    assert 0 < small < large


@pytest.mark.parametrize("name", ["edit", "plus", "plus-2511"])
def test_the_memory_estimate_is_not_below_what_a_state_holds(name: str) -> None:
    pipeline = load(name)
    edit = spec(width=160, height=160)
    state = pipeline.prepare(edit, [WIDE])
    pipeline.denoise([state])
    projected = state.extras["projected"]
    tensors = [state.latents, state.velocity, state.references, state.prompt_embeds, state.negative_embeds]
    tensors += [projected.references, projected.image_rotation, *projected.texts, *projected.text_rotations]
    assert sum(tensor.nbytes for tensor in tensors) <= pipeline.memory_bytes(edit, 1)


def test_seeds_prompts_and_references_matter() -> None:
    pipeline = load("plus-2511")
    base = alone(pipeline, spec())
    others = {
        "seed": alone(pipeline, spec(seed=2)),
        "prompt": alone(pipeline, spec("make it blue")),
        "negative prompt": alone(pipeline, spec(negative_prompt="blurry")),
        "guidance": alone(pipeline, spec(guidance_scale=3.0)),
        "image": alone(pipeline, spec(), (TALL,)),
        "second picture": alone(pipeline, spec(), (WIDE, TALL)),
        "order": alone(pipeline, spec(), (TALL, WIDE)),
    }
    assert [name for name, pixels in others.items() if np.array_equal(pixels, base)] == []
    assert not np.array_equal(others["second picture"], others["order"])


def test_without_guidance_the_negative_prompt_is_not_even_read() -> None:
    pipeline = load("plus")
    off = {"guidance_scale": 1.0}
    np.testing.assert_array_equal(
        alone(pipeline, spec(**off)), alone(pipeline, spec(negative_prompt="<|im_end|>", **off))
    )


FIVE = (
    (spec("make it grayscale", steps=6), (WIDE,)),
    (spec("make it blue", width=64, height=128, steps=3, guidance_scale=1.0), (TALL,)),
    (spec("put the shape of Picture 2 into Picture 1", width=128, height=96, steps=4), (WIDE, SMALL)),
    (spec("make it brighter", width=64, height=64, steps=1, guidance_scale=1.0, seed=9), (SMALL,)),
    (spec("make it grayscale", steps=5, seed=4), (WIDE,)),
)
ARRIVAL_TICKS = (0, 0, 3, 5, 9)


@pytest.mark.parametrize("name", ["null", "plus", "plus-2511"])
def test_five_edits_that_interrupt_one_another_give_byte_for_byte_what_each_gives_alone(name: str) -> None:
    pipeline = load(name)
    expected = [alone(load(name), edit, images) for edit, images in FIVE]
    engine = Engine(pipeline)
    answers: dict[str, Pixels] = {}
    turns: list[str] = []
    coming = list(zip(ARRIVAL_TICKS, range(5), FIVE, strict=True))
    tick = 0
    while coming or engine.busy:
        while coming and coming[0][0] <= tick:
            _, number, (edit, images) = coming.pop(0)
            inputs = engine.stage(edit, images) if number % 2 else None  # on a thread, or in its turn: all the same
            engine.add(edit, images, edit_id=str(number), place=(-number,), inputs=inputs)
        report = engine.step()
        assert not report.failed
        turns += [progress.edit_id for progress in report.progressed]
        answers |= {done.edit_id: done.pixels for done in report.finished}
        tick += 1
    changes = sum(one != other for one, other in pairwise(turns))
    assert changes > 4, "an edit goes on after it was interrupted"
    for number in range(5):
        np.testing.assert_array_equal(answers[str(number)], expected[number])


def test_an_edit_cancelled_between_steps_leaves_no_trace_in_the_others() -> None:
    pipeline = load("plus-2511")
    expected = alone(pipeline, spec())
    engine = Engine(pipeline)
    cancelled, kept = engine.add(spec(seed=5, steps=9), [TALL]), engine.add(spec(), [WIDE])
    while not any(progress.edit_id == cancelled for progress in engine.step().progressed):
        pass
    engine.cancel(cancelled)
    reports = []
    while engine.busy:
        reports.append(engine.step())
    assert not any(progress.edit_id == cancelled for report in reports for progress in report.progressed)
    [finished] = [done for report in reports for done in report.finished]
    assert finished.edit_id == kept
    np.testing.assert_array_equal(finished.pixels, expected)


@pytest.mark.parametrize("name", ["edit", "plus"])
def test_bad_words_and_images_end_one_edit_with_the_field_named(name: str) -> None:
    engine = Engine(load(name))
    fields = {
        engine.add(spec("word " * 200), [WIDE]): "prompt",
        engine.add(spec("<|image_pad|>"), [WIDE]): "prompt",
        engine.add(spec(negative_prompt="<|im_end|>"), [WIDE]): "negative_prompt",
        engine.add(spec(), [np.zeros((1, 900, 3), np.uint8)]): "images[0]",
    }
    good = engine.add(spec(), [WIDE])
    if name == "edit":
        fields[engine.add(spec(), [WIDE, TALL])] = "images"
    failed: dict[str, str | None] = {}
    finished = []
    while engine.busy:
        report = engine.step()
        failed |= {failure.edit_id: failure.error.field for failure in report.failed}
        finished += [done.edit_id for done in report.finished]
    assert failed == fields
    assert finished == [good]
