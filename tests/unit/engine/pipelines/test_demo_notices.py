"""The demo says when it has found no edit it knows, and takes the longest prompts its callers may send."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from retouch.catalog import Catalog, checkpoint_named
from retouch.edit import EditRequest, EditSpec, ImageInput, Notice
from retouch.engine.pipelines import load_pipeline
from retouch.engine.pipelines.qwen_image_edit import QwenImageEdit
from retouch.errors import TooLong

DEMO = checkpoint_named("demo")
PHOTO = np.random.default_rng(3).integers(0, 256, (64, 96, 3), dtype=np.uint8)


@functools.cache
def demo() -> QwenImageEdit:
    pipeline = load_pipeline(DEMO, device="cpu")
    assert isinstance(pipeline, QwenImageEdit)
    return pipeline


def notices(prompt: str, images: int = 1) -> tuple[Notice, ...]:
    return demo().prepare(EditSpec(prompt, 96, 64, seed=1, steps=1), [PHOTO] * images).notices


@pytest.mark.parametrize("prompt", DEMO.knows)
def test_every_edit_that_the_notice_names_is_understood(prompt: str) -> None:
    assert notices(prompt, images=2 if "second picture" in prompt else 1) == ()


@pytest.mark.parametrize(
    "prompt",
    [
        "could you make this photo a little bit brighter for my grandmother?",
        "it is too dark",
        "turn it into a black and white photo",
        "把它变成黑白",
        "变亮一点",
        "mak it grayscal",
    ],
)
def test_a_known_edit_in_other_words_needs_no_notice(prompt: str) -> None:
    assert notices(prompt) == ()


@pytest.mark.parametrize(
    "prompt",
    [
        "add a hat",
        "remove the background",
        "rotate it by 90 degrees",
        "turn it into a van Gogh painting",
        "draw a circle",
        "write a poem",
        "what is this?",
        "asdf qwer",
        "把猫换成狗",
        "去掉背景",
    ],
)
@pytest.mark.parametrize("images", [1, 2])
def test_an_instruction_that_is_not_understood_is_answered_with_what_is_known(prompt: str, images: int) -> None:
    [notice] = notices(prompt, images)
    assert (notice.parameter, notice.action) == ("prompt", "ignored")
    assert all(known in notice.detail for known in DEMO.knows)


@pytest.mark.parametrize("character", ["把", "龘", "𠮷", "é", "a", "😀"])
def test_the_800_characters_of_fals_endpoint_fit_the_demo(character: str) -> None:
    model = "fal-ai/qwen-image-2/edit"
    request = EditRequest(model, character * 800, (ImageInput(blob="x"),))
    Catalog.serving(DEMO).route(model).complete(request)
    notices(character * 800)


def test_beyond_its_tokens_a_prompt_is_refused_by_name() -> None:
    with pytest.raises(TooLong) as caught:
        notices("龘" * 1100)
    assert caught.value.field == "prompt"
