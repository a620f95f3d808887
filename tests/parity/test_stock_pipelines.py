"""Our three verbs against the stock diffusers pipelines on the same weights: not one bit of difference.

With compat="diffusers" in float32. The stock areas are patched to small ones, or one edit would take half a
minute; ours are fields of the catalogue's row.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImageTransformer2DModel,
)
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit as edit_module
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as plus_module
from PIL import Image
from torch._dynamo.utils import counters
from transformers import Qwen2_5_VLForConditionalGeneration

from retouch.edit import EditSpec
from retouch.engine.pipelines import load_pipeline, loading
from retouch.engine.pipelines.denoising import FastNetwork, PlainNetwork, compiled_block
from retouch.engine.pipelines.loading import FAMILIES
from retouch.engine.pipelines.qwen_image_edit import PLUS, QwenImageEdit
from retouch.images import Pixels
from tests.tiny_checkpoints import REFERENCE_AREA, VISION_AREA, Kind, checkpoint, coloured_blocks, shared

StockPipeline: TypeAlias = QwenImageEditPipeline | QwenImageEditPlusPipeline
Pair = Callable[[Kind], tuple[QwenImageEdit, StockPipeline]]

WIDE, TALL = coloured_blocks(1, 150, 90), coloured_blocks(2, 70, 200)


@pytest.fixture(scope="module")
def pair() -> Pair:
    """Our pipeline in compat mode and the stock one, over weights of one folder, for each kind."""
    pairs: dict[Kind, tuple[QwenImageEdit, StockPipeline]] = {}

    def loaded(kind: Kind) -> tuple[QwenImageEdit, StockPipeline]:
        if kind not in pairs:
            ours = load_pipeline(checkpoint(shared(kind)), device="cpu", compat="diffusers")
            assert isinstance(ours, QwenImageEdit)
            pairs[kind] = ours, stock_pipeline(shared(kind), ours, kind)
        return pairs[kind]

    return loaded


def stock_pipeline(folder: Path, ours: QwenImageEdit, kind: Kind, dtype: torch.dtype = torch.float32) -> StockPipeline:
    """The stock pipeline over the folder's weights, with our processor, for the stock one needs torchvision."""
    family = QwenImageEditPipeline if kind == "edit" else QwenImageEditPlusPipeline
    pipeline = family(
        scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler"),
        vae=AutoencoderKLQwenImage.from_pretrained(folder / "vae", torch_dtype=dtype),
        text_encoder=Qwen2_5_VLForConditionalGeneration.from_pretrained(folder / "text_encoder", dtype=dtype),
        tokenizer=ours.text_encoder.tokenizer,
        processor=ours.text_encoder.processor,
        transformer=QwenImageTransformer2DModel.from_pretrained(folder / "transformer", torch_dtype=dtype),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(autouse=True)
def small_areas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plus_module, "VAE_IMAGE_SIZE", REFERENCE_AREA)
    monkeypatch.setattr(plus_module, "CONDITION_IMAGE_SIZE", VISION_AREA)
    true_dimensions = edit_module.calculate_dimensions  # the first pipeline writes its area into the call
    monkeypatch.setattr(edit_module, "calculate_dimensions", lambda _, ratio: true_dimensions(REFERENCE_AREA, ratio))


def stock_answer(stock: StockPipeline, spec: EditSpec, images: list[Pixels]) -> tuple[list[torch.Tensor], Pixels]:
    """Latents after every step and the image."""
    latents = []

    def keep(_pipeline: object, _step: int, _timestep: object, values: dict[str, torch.Tensor]) -> dict[str, object]:
        latents.append(values["latents"].clone())
        return {}

    photos = [Image.fromarray(image) for image in images]
    answer = stock(
        image=photos if isinstance(stock, QwenImageEditPlusPipeline) else photos[0],
        prompt=spec.prompt,
        negative_prompt=spec.negative_prompt if spec.guidance_scale > 1 else None,
        true_cfg_scale=spec.guidance_scale,
        width=spec.width,
        height=spec.height,
        num_inference_steps=spec.steps,
        generator=torch.Generator().manual_seed(spec.seed),
        callback_on_step_end=keep,
    )
    return latents, np.asarray(answer.images[0])


CASES = {
    "edit": ("edit", 1, 1.0),
    "edit, guided": ("edit", 1, 4.0),
    "plus": ("plus", 1, 1.0),
    "plus, guided": ("plus", 1, 4.0),
    "plus, two references": ("plus", 2, 1.0),
    "plus, two references, guided": ("plus", 2, 4.0),
    "2511": ("plus-2511", 1, 1.0),
    "2511, guided": ("plus-2511", 1, 4.0),
    "2511, two references, guided": ("plus-2511", 2, 2.5),
}


@pytest.mark.parametrize(("kind", "count", "guidance"), CASES.values(), ids=CASES.keys())
def test_every_latent_and_every_pixel_is_the_stock_pipelines(
    pair: Pair, kind: Kind, count: int, guidance: float
) -> None:
    ours, stock = pair(kind)
    assert ours.rules is FAMILIES[type(stock).__name__]
    spec = EditSpec("make the sky green", 112, 80, seed=7, steps=2, guidance_scale=guidance, negative_prompt="blurry")
    images = [WIDE, TALL][:count]
    expected, expected_image = stock_answer(stock, spec, images)

    state = ours.prepare(spec, images)
    for step in range(spec.steps):
        ours.denoise([state])
        assert (state.latents - expected[step]).abs().max() == 0.0
    np.testing.assert_array_equal(ours.decode(state), expected_image)


def test_in_half_precision_too_every_rounding_is_the_stock_pipelines() -> None:
    """What runs on a GPU, on the CPU: bfloat16 weights, and latents rounded to them after each step."""
    folder = shared("plus-2511")
    cpu = torch.device("cpu")
    ours = loading.assemble(checkpoint(folder), PLUS, folder, cpu, torch.bfloat16, compat=True)
    stock = stock_pipeline(folder, ours, "plus-2511", torch.bfloat16)
    spec = EditSpec("make the sky green", 112, 80, seed=7, steps=2, guidance_scale=4.0)
    expected, expected_image = stock_answer(stock, spec, [WIDE, TALL])

    state = ours.prepare(spec, [WIDE, TALL])
    for step in range(spec.steps):
        ours.denoise([state])
        assert state.latents.dtype == expected[step].dtype == torch.bfloat16
        assert (state.latents - expected[step]).abs().max() == 0.0
    np.testing.assert_array_equal(ours.decode(state), expected_image)


def test_half_precision_weights_keep_latents_in_single_precision() -> None:
    folder = shared("plus-2511")
    exact = load_pipeline(checkpoint(folder), device="cpu")
    half = loading.assemble(checkpoint(folder), PLUS, folder, torch.device("cpu"), torch.bfloat16, compat=False)
    spec = EditSpec("make the sky green", 112, 80, seed=7, steps=2, guidance_scale=4.0)
    images = []
    for pipeline in (exact, half):
        state = pipeline.prepare(spec, [WIDE])
        while not state.done:
            pipeline.denoise([state])
        assert state.latents.dtype == torch.float32
        images.append(pipeline.decode(state).astype(int))
    assert np.abs(images[0] - images[1]).mean() < 3


def test_one_compiled_block_serves_every_block_and_size(pair: Pair) -> None:
    ours, _ = pair("plus-2511")
    assert isinstance(ours.network, PlainNetwork)
    plain = FastNetwork(ours.network.transformer)
    compiled = FastNetwork(ours.network.transformer, run_block=compiled_block(backend="aot_eager"))
    graphs = set()
    for width, height in ((96, 64), (64, 128), (128, 96)):
        spec = EditSpec("make the sky green", width, height, seed=7, steps=1, guidance_scale=4.0)
        state = ours.prepare(spec, [WIDE, TALL])
        with torch.inference_mode():
            expected = plain.velocities(state, state.latents, 1.0)
            torch.testing.assert_close(compiled.velocities(state, state.latents, 1.0), expected, rtol=1e-5, atol=1e-5)
        graphs.add(counters["stats"]["unique_graphs"])
    assert len(graphs) == 1, "no size needs a graph of its own"


@pytest.mark.parametrize("kind", ["edit", "plus", "plus-2511"])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_the_fast_path_differs_from_the_plain_one_by_rounding_only(pair: Pair, kind: Kind, guidance: float) -> None:
    ours, _ = pair(kind)
    assert isinstance(ours.network, PlainNetwork)
    fast = FastNetwork(ours.network.transformer)
    spec = EditSpec("make the sky green", 96, 64, seed=7, steps=2, guidance_scale=guidance)
    state = ours.prepare(spec, [WIDE] if kind == "edit" else [WIDE, TALL])
    state.sigmas = (1.0, 0.37, 0.0)
    with torch.inference_mode():
        for sigma in state.sigmas[:2]:
            torch.testing.assert_close(
                fast.velocities(state, state.latents, sigma),
                ours.network.velocities(state, state.latents, sigma),
                rtol=1e-5,
                atol=1e-5,
            )
