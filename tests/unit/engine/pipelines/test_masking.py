"""A masked region denoised alone: as without a mask when it is everything, per edit, and said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from retouch.edit import Acceleration, EditSpec
from retouch.engine.engine import Engine
from retouch.engine.pipelines import load_pipeline
from retouch.engine.pipelines.acceleration import first_region_step
from retouch.engine.pipelines.qwen_image_edit import QwenImageEdit
from retouch.engine.region import editable_tokens
from retouch.images import Mask, Pixels
from tests.tiny_checkpoints import checkpoint, coloured_blocks, shared

PHOTO = coloured_blocks(1, 96, 128)
ROWS, COLUMNS, STEPS = 8, 6, 10


@pytest.fixture(scope="module", params=["plus", "plus-2511"])
def pipeline(request: pytest.FixtureRequest) -> QwenImageEdit:
    torch.set_num_threads(1)
    loaded = load_pipeline(replace(checkpoint(shared(request.param)), block_cache=True), device="cpu")
    assert isinstance(loaded, QwenImageEdit)
    return loaded


def mask(rows: slice, columns: slice) -> Mask:
    values = np.zeros((128, 96), np.uint8)
    values[rows, columns] = 255
    return values


CORNER = editable_tokens(mask(slice(0, 30), slice(0, 30)), ROWS, COLUMNS)


def spec(region: bytes | None, **changes: object) -> EditSpec:
    values = EditSpec(
        "make it grayscale", width=96, height=128, seed=1, steps=STEPS, guidance_scale=2.0, region=region,
        acceleration=Acceleration.REGULAR,
    )  # fmt: skip
    return replace(values, **changes)


def run(pipeline: QwenImageEdit, edit: EditSpec) -> Pixels:
    state = pipeline.prepare(edit, [PHOTO])
    while not state.done:
        pipeline.denoise([state])
    return pipeline.decode(state)


def test_a_region_is_the_masked_tokens_and_a_margin() -> None:
    region = editable_tokens(mask(slice(40, 41), slice(40, 41)), ROWS, COLUMNS, margin=1)
    assert region is not None
    grid = np.frombuffer(region, np.uint8).reshape(ROWS, COLUMNS)
    assert np.argwhere(grid).tolist() == [[row, column] for row in (1, 2, 3) for column in (1, 2, 3)]


@pytest.mark.parametrize("shape", [(5, 3), (128, 96), (999, 1001)])
def test_a_mask_of_any_size_is_stretched_over_the_canvas(shape: tuple[int, int]) -> None:
    values = np.zeros(shape, np.uint8)
    values[shape[0] // 2 :] = 255
    region = editable_tokens(values, ROWS, COLUMNS, margin=0)
    assert region is not None
    grid = np.frombuffer(region, np.uint8).reshape(ROWS, COLUMNS)
    assert grid[-3:].all()
    assert not grid[:3].any()


@pytest.mark.parametrize("value", [0, 1, 255])
def test_a_mask_of_everything_or_nothing_is_no_region(value: int) -> None:
    assert editable_tokens(np.full((128, 96), value, np.uint8), ROWS, COLUMNS) is None


def test_none_denoises_everything_whatever_the_mask(pipeline: QwenImageEdit) -> None:
    exact = spec(None, acceleration=Acceleration.NONE)
    np.testing.assert_array_equal(run(pipeline, replace(exact, region=CORNER)), run(pipeline, exact))


def test_after_the_warm_up_only_the_region_goes_through_the_network(pipeline: QwenImageEdit) -> None:
    assert CORNER is not None
    seen: list[int] = []
    hook = pipeline.network.transformer.img_in.register_forward_hook(
        lambda _, given, __: seen.append(given[0].shape[1])
    )
    state = pipeline.prepare(spec(CORNER), [PHOTO])
    references = state.references.shape[1]
    while not state.done:
        pipeline.denoise([state])
    hook.remove()
    steps = [tokens for tokens in seen if tokens != references]
    warm_up = first_region_step(STEPS)
    assert steps == [ROWS * COLUMNS] * warm_up + [sum(CORNER)] * (STEPS - warm_up)
    [notice] = [notice for notice in state.notices if notice.parameter == "mask"]
    assert f"{sum(CORNER)} of {ROWS * COLUMNS} tokens" in notice.detail


def test_the_other_tokens_end_as_the_source(pipeline: QwenImageEdit) -> None:
    assert CORNER is not None
    state = pipeline.prepare(spec(CORNER), [PHOTO])
    while not state.done:
        pipeline.denoise([state])
    region = state.extras["region"]
    still = torch.ones(ROWS * COLUMNS, dtype=torch.bool)
    still[region.tokens] = False
    torch.testing.assert_close(state.latents[:, still], region.source[:, still], atol=1e-5, rtol=1e-5)
    assert (state.latents[:, region.tokens] - region.source[:, region.tokens]).abs().max() > 0.1


def test_masked_edits_in_turns_are_byte_for_byte_as_alone(pipeline: QwenImageEdit) -> None:
    lower = editable_tokens(mask(slice(90, 128), slice(50, 96)), ROWS, COLUMNS)
    edits = [
        spec(CORNER), spec(lower, seed=4), spec(None, seed=5),
        spec(CORNER, acceleration=Acceleration.HIGH, steps=13, guidance_scale=1.0),
    ]  # fmt: skip
    alone = [run(pipeline, edit) for edit in edits]
    engine = Engine(pipeline)
    names = [engine.add(edit, [PHOTO]) for edit in edits]
    finished: dict[str, Pixels] = {}
    while engine.busy:
        finished |= {done.edit_id: done.pixels for done in engine.step().finished}
    for name, expected in zip(names, alone, strict=True):
        np.testing.assert_array_equal(finished[name], expected)


def test_a_preview_shows_the_region_in_its_source(pipeline: QwenImageEdit) -> None:
    state = pipeline.prepare(spec(CORNER), [PHOTO])
    while not state.done:
        pipeline.denoise([state])
        assert pipeline.preview(state).shape == (16, 12, 3)
