"""Qwen-Image-2.1 against the stock pipeline, bit for bit in float32 on tiny random weights; prefixes belong to edits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLQwenImage21,
    FlowMatchEulerDiscreteScheduler,
    QwenImage21Pipeline,
    QwenImage21Transformer2DModel,
)
from PIL import Image
from transformers import Qwen2Tokenizer, Qwen2VLImageProcessorPil, Qwen3VLForConditionalGeneration, Qwen3VLProcessor

from retouch.edit import EditSpec
from retouch.engine.pipeline import DenoiseState
from retouch.engine.pipelines import load_pipeline
from retouch.engine.pipelines.qwen_image_21 import QwenImage21, over_white
from tests.tiny_checkpoints import coloured_blocks
from tests.tiny_qwen_image_21 import AREA, CHAT_TEMPLATE, row, shared


class Processor(Qwen3VLProcessor):
    """The stock one without its video part, which needs torchvision."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        super(Qwen3VLProcessor, self).__init__(image_processor, tokenizer, chat_template=chat_template)


@pytest.fixture(scope="module")
def stock() -> QwenImage21Pipeline:
    folder = shared()
    processor = Processor(
        Qwen2VLImageProcessorPil.from_pretrained(folder / "processor"),
        Qwen2Tokenizer.from_pretrained(folder / "processor"),
        CHAT_TEMPLATE,
    )
    pipeline = QwenImage21Pipeline(
        FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler"),
        AutoencoderKLQwenImage21.from_pretrained(folder / "vae"),
        Qwen3VLForConditionalGeneration.from_pretrained(folder / "text_encoder"),
        processor,
        QwenImage21Transformer2DModel.from_pretrained(folder / "transformer"),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def ours() -> QwenImage21:
    return load_pipeline(row(shared()), device="cpu")


def spec(seed: int = 5, prompt: str = "make it red", **changes: Any) -> EditSpec:
    return EditSpec(prompt, **({"width": 128, "height": 96, "steps": 3, "guidance_scale": 1.0} | changes), seed=seed)


def run(pipeline: QwenImage21, state: DenoiseState) -> DenoiseState:
    while not state.done:
        pipeline.denoise([state])
    return state


@pytest.mark.parametrize("sizes", [[(128, 96)], [(200, 100), (64, 160)]])
def test_latents_and_image_are_those_of_the_stock_pipeline(
    stock: QwenImage21Pipeline, ours: QwenImage21, sizes: list[tuple[int, int]]
) -> None:
    photos = [coloured_blocks(number, *size) for number, size in enumerate(sizes)]
    state = run(ours, ours.prepare(spec(), photos))
    given = {
        "prompt": "make it red",
        "image": [Image.fromarray(photo) for photo in photos],
        "width": 128,
        "height": 96,
        "num_inference_steps": 3,
        "output_resolution": int(AREA**0.5),
    }
    latents = stock(**given, generator=torch.Generator().manual_seed(5), output_type="latent").images
    assert torch.equal(state.latents, latents)
    pixels = stock(**given, generator=torch.Generator().manual_seed(5), output_type="pt").images
    flat = over_white(2 * pixels - 1)[0].permute(1, 2, 0)
    theirs = ((flat * 0.5 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    assert np.abs(ours.decode(state).astype(int) - theirs).max() <= 1  # the stock one rounds before it is laid on white


def test_a_prefix_is_made_once_and_belongs_to_its_edit(ours: QwenImage21) -> None:
    photos = [coloured_blocks(1, 128, 96)]
    alone = [run(ours, ours.prepare(spec(seed, prompt), photos)).latents for seed, prompt in ((1, "red"), (2, "blue"))]
    states = [ours.prepare(spec(seed, prompt), photos) for seed, prompt in ((1, "red"), (2, "blue"))]
    for _ in range(3):
        for state in states:
            ours.denoise([state])
    assert all(torch.equal(state.latents, latents) for state, latents in zip(states, alone, strict=True))
    assert not torch.equal(*alone)
    assert all("prefix" not in state.extras for state in states)


def test_a_prefix_is_as_large_as_said(ours: QwenImage21) -> None:
    state = ours.prepare(spec(), [coloured_blocks(1, 128, 96)])
    ours.denoise([state])
    held = sum(layer.k.nbytes + layer.v.nbytes for layer in state.extras["prefix"].layer_caches)
    tokens = state.references.shape[1] + int((~state.extras["slots"]).sum())
    memory = ours.state_memory
    assert held == tokens * memory.prefix_bytes
    assert ours.memory_bytes(state.spec, 1) > held


def test_previews_and_sizes(ours: QwenImage21) -> None:
    state = ours.prepare(spec(width=96, height=160), [coloured_blocks(1, 64, 64)])
    ours.denoise([state])
    assert ours.preview(state).shape == (10, 6, 3)
    assert ours.decode(run(ours, state)).shape == (160, 96, 3)


def test_an_image_beyond_the_processors_own_limits_keeps_its_size() -> None:
    pipeline = load_pipeline(replace(row(shared()), reference_area=320 * 320), device="cpu")
    state = run(pipeline, pipeline.prepare(spec(steps=1), [coloured_blocks(1, 640, 640)]))
    assert state.references.shape[1] == 20 * 20


def test_weights_leave_and_come_back(ours: QwenImage21) -> None:
    photos = [coloured_blocks(1, 128, 96)]
    before = ours.decode(run(ours, ours.prepare(spec(), photos)))
    ours.leave_device()
    ours.enter_device()
    np.testing.assert_array_equal(ours.decode(run(ours, ours.prepare(spec(), photos))), before)
