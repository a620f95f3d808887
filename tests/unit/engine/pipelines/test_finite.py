"""Damaged weights end an edit with their name; they never become a black or white image."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from retouch.edit import EditSpec
from retouch.engine.engine import Engine, Failed
from retouch.engine.pipelines import load_pipeline
from retouch.engine.pipelines.qwen_image_edit import QwenImageEdit
from retouch.errors import InternalError
from tests import tiny_checkpoints
from tests.tiny_checkpoints import shared

PLACES: dict[str, Callable[[QwenImageEdit], torch.nn.Module]] = {
    "vae encoder": lambda pipeline: pipeline.vae.encoder,  # type: ignore[attr-defined]
    "vae decoder": lambda pipeline: pipeline.vae.decoder,  # type: ignore[attr-defined]
    "transformer": lambda pipeline: pipeline.network.transformer,  # type: ignore[attr-defined]
    "text encoder": lambda pipeline: pipeline.text_encoder.model.language_model,
}


def outcome(pipeline: QwenImageEdit) -> Failed:
    engine = Engine(pipeline)
    engine.add(EditSpec("make it blue", 64, 64, seed=1, steps=2), [tiny_checkpoints.coloured_blocks(1, 64, 64)])
    while engine.busy:
        report = engine.step()
        assert report.finished == ()
        if report.failed:
            return report.failed[0]
    raise AssertionError("the edit neither finished nor failed")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_no_number_fails_the_edit_and_names_the_checkpoint(
    place: str, value: float, caplog: pytest.LogCaptureFixture
) -> None:
    folder: Path = shared("plus")
    pipeline = load_pipeline(tiny_checkpoints.checkpoint(folder), device="cpu")
    assert isinstance(pipeline, QwenImageEdit)
    *_, last = (p for p in PLACES[place](pipeline).parameters() if p.ndim >= 1)
    with torch.inference_mode():
        last.view(-1)[0] = value
    failed = outcome(pipeline)
    assert isinstance(failed.error, InternalError)
    assert f"'{pipeline.checkpoint.name}'" in failed.error.message
    assert pipeline.checkpoint.name in caplog.text


def test_sound_weights_are_not_touched_by_the_check() -> None:
    pipeline = load_pipeline(tiny_checkpoints.checkpoint(shared("plus")), device="cpu")
    engine = Engine(pipeline)
    engine.add(EditSpec("make it blue", 64, 64, seed=1, steps=2), [tiny_checkpoints.coloured_blocks(1, 64, 64)])
    reports = []
    while engine.busy:
        reports.append(engine.step())
    [finished] = reports[-1].finished
    assert finished.pixels.shape == (64, 64, 3)
    assert finished.notices == (), "only a network with a closed list says what it knows"
