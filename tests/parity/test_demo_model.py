"""The shipped demo weights through the stock diffusers pipeline: the same picture as through our engine.

So the folder also serves others as a small checkpoint that was really trained.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as plus_module
from PIL import Image

from retouch.catalog import checkpoint_named
from retouch.edit import EditSpec
from retouch.engine.pipelines import load_pipeline
from retouch.engine.pipelines.qwen_image_edit import QwenImageEdit
from tests.parity.test_stock_pipelines import stock_answer, stock_pipeline

DEMO = checkpoint_named("demo")
SIDE = 128


@pytest.fixture(autouse=True)
def areas_of_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plus_module, "VAE_IMAGE_SIZE", SIDE * SIDE)
    monkeypatch.setattr(plus_module, "CONDITION_IMAGE_SIZE", DEMO.vision_area)


@pytest.mark.parametrize("prompt", ["make it grayscale", "把颜色反转"])
def test_the_stock_pipeline_makes_the_same_picture_of_the_demo_weights(prompt: str):
    ours = load_pipeline(DEMO, device="cpu", compat="diffusers")
    assert isinstance(ours, QwenImageEdit)
    stock = stock_pipeline(Path(str(files("retouch") / "demo_model")), ours, "plus-2511")
    photo = Image.open(str(files("retouch") / "samples" / "cat.jpg")).convert("RGB").resize((SIDE, SIDE))
    image = np.asarray(photo)
    spec = EditSpec(prompt, SIDE, SIDE, seed=5, steps=DEMO.steps)
    latents, picture = stock_answer(stock, spec, [image])

    state = ours.prepare(spec, [image])
    for expected in latents:
        ours.denoise([state])
        assert (state.latents - expected).abs().max() == 0.0
    assert np.abs(ours.decode(state).astype(int) - picture).max() <= 1, "the folded decoder may round one level away"


def test_our_own_encoding_of_the_prompt_changes_nothing_the_eye_sees_on_the_demo():
    image = np.asarray(Image.open(str(files("retouch") / "samples" / "cat.jpg")).convert("RGB").resize((SIDE, SIDE)))
    spec = EditSpec("make it grayscale", SIDE, SIDE, seed=5, steps=DEMO.steps)
    pictures = []
    for compat in (None, "diffusers"):
        pipeline = load_pipeline(DEMO, device="cpu", compat=compat)
        state = pipeline.prepare(spec, [image])
        while not state.done:
            pipeline.denoise([state])
        pictures.append(pipeline.decode(state).astype(int))
    assert np.abs(pictures[0] - pictures[1]).mean() < 2
    assert np.ptp(pictures[0], axis=2).mean() < 12, "grayscale has no colour"
