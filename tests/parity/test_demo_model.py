"""The shipped demo weights through the stock diffusers pipeline: the same image as through our engine.

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


def _sample(width: int = SIDE, height: int = SIDE) -> np.ndarray:
    photo = Image.open(str(files("retouch") / "samples" / "cat.jpg")).convert("RGB")
    return np.asarray(photo.resize((width, height)))


def _edited(prompt: str, *images: np.ndarray) -> np.ndarray:
    """What our engine makes of it, in the first image's size."""
    height, width, _ = images[0].shape
    pipeline = load_pipeline(DEMO, device="cpu")
    state = pipeline.prepare(EditSpec(prompt, width, height, seed=5, steps=DEMO.steps), list(images))
    while not state.done:
        pipeline.denoise([state])
    return pipeline.decode(state).astype(int)


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference, in levels of 256."""
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


@pytest.mark.parametrize(
    ("prompt", "count"),
    [("make it grayscale", 1), ("把颜色反转", 1), ("flip it horizontally", 1), ("use the colours of picture 2", 2)],
)
def test_the_stock_pipeline_makes_the_same_image_of_the_demo_weights(prompt: str, count: int):
    ours = load_pipeline(DEMO, device="cpu", compat="diffusers")
    assert isinstance(ours, QwenImageEdit)
    stock = stock_pipeline(Path(str(files("retouch") / "demo_model")), ours, "plus-2511")
    images = [_sample(), 255 - _sample()][:count]
    spec = EditSpec(prompt, SIDE, SIDE, seed=5, steps=DEMO.steps)
    latents, image = stock_answer(stock, spec, images)

    state = ours.prepare(spec, images)
    for expected in latents:
        ours.denoise([state])
        assert (state.latents - expected).abs().max() == 0.0
    assert np.abs(ours.decode(state).astype(int) - image).max() <= 1, "the folded decoder may round one level away"


def test_our_own_encoding_of_the_prompt_changes_nothing_the_eye_sees_on_the_demo():
    image = _sample()
    spec = EditSpec("make it grayscale", SIDE, SIDE, seed=5, steps=DEMO.steps)
    images = []
    for compat in (None, "diffusers"):
        pipeline = load_pipeline(DEMO, device="cpu", compat=compat)
        state = pipeline.prepare(spec, [image])
        while not state.done:
            pipeline.denoise([state])
        images.append(pipeline.decode(state).astype(int))
    assert np.abs(images[0] - images[1]).mean() < 2
    assert np.ptp(images[0], axis=2).mean() < 12, "grayscale has no colour"


@pytest.mark.parametrize(("width", "height"), [(128, 128), (208, 112), (112, 320)])
@pytest.mark.parametrize(
    ("prompt", "turned"),
    [
        ("flip the picture horizontally", np.s_[:, ::-1]),
        ("mirror it top to bottom", np.s_[::-1]),
        ("rotate the photo by 180 degrees", np.s_[::-1, ::-1]),
    ],
)
def test_the_demo_mirrors_a_photo_of_any_shape(prompt: str, turned: tuple[slice, ...], width: int, height: int):
    image = _sample(width, height)
    answer = _edited(prompt, image)
    assert _distance(answer, image[turned]) < 12
    assert _distance(answer, image) > 2 * _distance(answer, image[turned])


def test_the_demo_takes_the_colours_of_the_second_image():
    image = _sample()
    blue = np.full((SIDE, SIDE, 3), (40, 80, 200), np.uint8)
    answer = _edited("Use the colours of picture 2.", image, blue)
    assert _distance(answer.mean((0, 1)), blue.mean((0, 1))) < 20
    assert _distance(image.mean((0, 1)), blue.mean((0, 1))) > 60


def test_a_square_is_where_it_was_asked_for_and_the_rest_stays():
    image = _sample()
    answer = _edited("Draw a red square in the top left corner.", image)
    inside = answer[20:60, 20:60]
    assert inside[..., 0].mean() > 200
    assert inside[..., 1:].mean() < 60
    assert _distance(answer[72:, 72:], image[72:, 72:]) < 12


def test_a_request_it_does_not_know_leaves_the_image_nearly_as_it_was():
    image = _sample()
    assert _distance(_edited("Add a party hat.", image), image) < 12
