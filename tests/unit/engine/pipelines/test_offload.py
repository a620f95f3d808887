"""Offloaded weights change no byte, and are really away while they are not used.

On a CPU there is no other memory to move them to, so here they go to the disk; what is left in their place is no weight.
"""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from retouch.edit import Acceleration, EditSpec, LoraFile
from retouch.engine.pipelines import folders, loading
from retouch.engine.pipelines.memory_plan import Plan
from retouch.engine.pipelines.qwen_image_edit import QwenImageEdit
from retouch.images import Pixels
from tests import tiny_loras
from tests.tiny_checkpoints import checkpoint, coloured_blocks, shared

FOLDER = shared("plus-2511")
CPU = torch.device("cpu")
PHOTO = coloured_blocks(1, 64, 64)


def load(
    offload: str = "none", precision: str = "bf16", disk: Path | None = None, device: torch.device = CPU
) -> QwenImageEdit:
    row, rules, plan = checkpoint(FOLDER), loading.read_rules(FOLDER), Plan(precision, offload, 0)
    with folders.quiet(), torch.inference_mode():
        return loading.assemble(row, rules, FOLDER, device, torch.float32, compat=False, plan=plan, disk=disk)


def run(pipeline: QwenImageEdit, **changes: object) -> Pixels:
    spec = EditSpec("make it grayscale", 64, 64, seed=1, steps=3, guidance_scale=4.0, **changes)
    state = pipeline.prepare(spec, [PHOTO])
    while not state.done:
        pipeline.denoise([state])
    return pipeline.decode(state)


def spoil(folder: Path) -> None:
    """Make what is kept on the disk the only weights there are."""
    for file in folder.rglob("*"):
        if file.is_file():
            file.write_bytes(b"")


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
@pytest.mark.parametrize("offload", ["encoder", "blocks"])
def test_an_edit_is_the_same_byte_for_byte(offload: str, precision: str, tmp_path: Path) -> None:
    plain = run(load(precision=precision))
    pipeline = load(offload, precision, tmp_path)
    np.testing.assert_array_equal(run(pipeline), plain)
    np.testing.assert_array_equal(run(pipeline), plain)
    assert np.ptp(plain) > 0


def test_weights_are_away_while_they_are_not_used(tmp_path: Path) -> None:
    pipeline = load("blocks", disk=tmp_path)
    run(pipeline)
    spoil(tmp_path)
    with pytest.raises(SafetensorError):
        run(pipeline, negative_prompt="another one")


def test_reused_blocks_need_no_weights(tmp_path: Path) -> None:
    pipelines = load(), load("blocks", disk=tmp_path)
    for pipeline in pipelines:
        pipeline.checkpoint = replace(pipeline.checkpoint, block_cache=True)
    spec = EditSpec("make it red", 64, 64, seed=1, steps=12, guidance_scale=4.0, acceleration=Acceleration.HIGH)
    images = []
    for pipeline in pipelines:
        state = pipeline.prepare(spec, [PHOTO])
        while not state.done:
            pipeline.denoise([state])
        images.append(pipeline.decode(state))
    np.testing.assert_array_equal(*images)


def test_an_edit_with_a_lora_is_the_same_on_offloaded_blocks(tmp_path: Path) -> None:
    pipelines = load(), load("blocks", disk=tmp_path / "weights")
    made = tiny_loras.matrices(pipelines[0].network.transformer, tiny_loras.EVERYWHERE, seed=1)
    file = tiny_loras.write(tmp_path / "style.safetensors", made, "kohya")
    style = LoraFile(file, 1.0, file.name, "loras[0]", file.stat().st_size)
    plain, offloaded = (run(pipeline, loras=(style,)) for pipeline in pipelines)
    np.testing.assert_array_equal(offloaded, plain)
    assert (run(pipelines[1]) != offloaded).any()


def test_a_model_that_left_the_device_comes_back_the_same() -> None:
    pipeline = load()
    plain = run(pipeline)
    spec = EditSpec("make it grayscale", 64, 64, seed=1, steps=3, guidance_scale=4.0)
    state = pipeline.prepare(spec, [PHOTO])
    pipeline.denoise([state])
    before = [tensor.data_ptr() for tensor in pipeline.weights.tensors]
    pipeline.leave_device()
    pipeline.leave_device()
    away = [tensor.data_ptr() for tensor in pipeline.weights.tensors]
    assert not set(before) & set(away)
    pipeline.enter_device()
    assert not set(away) & {tensor.data_ptr() for tensor in pipeline.weights.tensors}
    while not state.done:
        pipeline.denoise([state])
    np.testing.assert_array_equal(pipeline.decode(state), plain)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["bf16", "fp8"])
@pytest.mark.parametrize("offload", ["encoder", "blocks"])
def test_on_a_gpu_an_edit_is_the_same_byte_for_byte_and_less_is_held(offload: str, precision: str) -> None:
    device, held, images = torch.device("cuda"), [], []
    for way in ("none", offload):
        before = torch.cuda.memory_allocated()
        pipeline = load(way, precision, device=device)
        images += [run(pipeline), run(pipeline)]
        held.append(torch.cuda.memory_allocated() - before)
        del pipeline
        gc.collect()
    for image in images[1:]:
        np.testing.assert_array_equal(image, images[0])
    assert held[1] < held[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_model_that_leaves_gives_its_memory_back() -> None:
    pipeline = load(device=torch.device("cuda"))
    plain, held = run(pipeline), torch.cuda.memory_allocated()
    pipeline.leave_device()
    assert torch.cuda.memory_allocated() < held - pipeline.weights.nbytes // 2
    pipeline.enter_device()
    np.testing.assert_array_equal(run(pipeline), plain)
