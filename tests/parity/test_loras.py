"""Edits with LoRAs against the stock pipelines with the same files loaded: not one bit of difference."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from retouch.edit import Acceleration, EditSpec, LoraFile
from retouch.engine.pipelines import load_pipeline
from retouch.engine.pipelines.denoising import FastNetwork
from retouch.engine.pipelines.loras import Loras
from retouch.engine.pipelines.qwen_image_edit import QwenImageEdit
from tests import tiny_loras
from tests.parity.test_stock_pipelines import TALL, WIDE, small_areas, stock_answer, stock_pipeline
from tests.tiny_checkpoints import Kind, checkpoint, shared
from tests.tiny_loras import Naming

__all__ = ["small_areas"]

SPEC = EditSpec("make the sky green", 96, 64, seed=7, steps=2, guidance_scale=3.0)


def given(file: Path, scale: float = 1.0) -> LoraFile:
    return LoraFile(file, scale, file.name, "loras[0]", file.stat().st_size)


def ours_of(kind: Kind) -> QwenImageEdit:
    ours = load_pipeline(checkpoint(shared(kind)), device="cpu", compat="diffusers")
    assert isinstance(ours, QwenImageEdit)
    return ours


def answer(ours: QwenImageEdit, spec: EditSpec) -> torch.Tensor:
    state = ours.prepare(spec, [WIDE, TALL])
    while not state.done:
        ours.denoise([state])
    return state.latents


@pytest.mark.parametrize("naming", ["diffusers", "diffusers with settings", "kohya", "lightning", "comfy"])
def test_a_lora_in_every_layer_gives_the_stock_pipelines_bits(tmp_path: Path, naming: Naming) -> None:
    ours = ours_of("plus-2511")
    stock = stock_pipeline(shared("plus-2511"), ours, "plus-2511")
    made = tiny_loras.matrices(stock.transformer, tiny_loras.EVERYWHERE)
    file = tiny_loras.write(tmp_path / "style.safetensors", made, naming)
    without = answer(ours, SPEC)
    stock.load_lora_weights(str(file), adapter_name="style")
    stock.set_adapters(["style"], [0.7])
    expected, _ = stock_answer(stock, SPEC, [WIDE, TALL])

    found = answer(ours, _with(given(file, 0.7)))
    assert (found - expected[-1]).abs().max() == 0.0
    assert (found - without).abs().max() > 0.05


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
def test_two_loras_add_up_as_in_the_stock_pipeline(tmp_path: Path) -> None:
    ours = ours_of("plus-2511")
    stock = stock_pipeline(shared("plus-2511"), ours, "plus-2511")
    files = []
    for seed, layers in enumerate((tiny_loras.EVERYWHERE, tiny_loras.in_blocks(tiny_loras.MLP))):
        made = tiny_loras.matrices(stock.transformer, layers, seed=seed, rank=2 + seed)
        files.append(tiny_loras.write(tmp_path / f"{seed}.safetensors", made))
        stock.load_lora_weights(str(files[-1]), adapter_name=f"number{seed}")
    stock.set_adapters(["number0", "number1"], [1.0, 0.5])
    expected, image = stock_answer(stock, SPEC, [WIDE, TALL])

    state = ours.prepare(_with(given(files[0]), given(files[1], 0.5)), [WIDE, TALL])
    while not state.done:
        ours.denoise([state])
    assert (state.latents - expected[-1]).abs().max() == 0.0
    np.testing.assert_array_equal(ours.decode(state), image)


def test_what_peft_saves_by_itself_is_what_peft_computes(tmp_path: Path) -> None:
    ours = ours_of("plus-2511")
    stock = stock_pipeline(shared("plus-2511"), ours, "plus-2511")
    layers = tiny_loras.in_blocks((*tiny_loras.ATTENTION, *tiny_loras.MODULATION))
    file = tiny_loras.save_by_peft(tmp_path, stock.transformer, layers, alpha=7)  # and leaves it in the network
    expected, _ = stock_answer(stock, SPEC, [WIDE, TALL])
    assert (answer(ours, _with(given(file))) - expected[-1]).abs().max() == 0.0


@pytest.mark.parametrize("kind", ["edit", "plus", "plus-2511"])
def test_the_fast_path_differs_from_the_stock_one_by_rounding_only(tmp_path: Path, kind: Kind) -> None:
    ours = ours_of(kind)
    made = tiny_loras.matrices(ours.network.transformer, tiny_loras.EVERYWHERE)
    file = given(tiny_loras.write(tmp_path / "style.safetensors", made), 0.8)
    fast = Loras(FastNetwork(ours.network.transformer), torch.device("cpu"))
    state = ours.prepare(_with(file), [WIDE] if kind == "edit" else [WIDE, TALL])
    with torch.inference_mode():
        network = fast.network(fast.load([file]))
        for sigma in state.sigmas[:2]:
            torch.testing.assert_close(
                network.velocities(state, state.latents, sigma),
                state.extras["network"].velocities(state, state.latents, sigma),
                rtol=1e-5,
                atol=1e-5,
            )


LIGHTNING = {
    "base_image_seq_len": 256,
    "base_shift": math.log(3),
    "invert_sigmas": False,
    "max_image_seq_len": 8192,
    "max_shift": math.log(3),
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "shift_terminal": None,
    "stochastic_sampling": False,
    "time_shift_type": "exponential",
    "use_beta_sigmas": False,
    "use_dynamic_shifting": True,
    "use_exponential_sigmas": False,
    "use_karras_sigmas": False,
}
"""The scheduler that the authors of Lightning publish with their LoRAs."""


@pytest.mark.parametrize("steps", [4, 8])
def test_high_with_a_few_step_lora_is_the_stock_pipeline_with_its_scheduler(tmp_path: Path, steps: int) -> None:
    ours = ours_of("plus-2511")
    stock = stock_pipeline(shared("plus-2511"), ours, "plus-2511")
    file = tiny_loras.write(
        tmp_path / "lightning.safetensors",
        tiny_loras.matrices(stock.transformer, tiny_loras.in_blocks((*tiny_loras.ATTENTION, *tiny_loras.MODULATION))),
        "lightning",
    )
    ours.use_fast_lora(given(file))
    spec = replace(SPEC, steps=steps, guidance_scale=1.0, acceleration=Acceleration.HIGH)
    stock.load_lora_weights(str(file))
    stock.scheduler = FlowMatchEulerDiscreteScheduler.from_config(LIGHTNING)
    expected, _ = stock_answer(stock, spec, [WIDE, TALL])
    assert (answer(ours, spec) - expected[-1]).abs().max() == 0.0


def _with(*loras: LoraFile) -> EditSpec:
    return replace(SPEC, loras=loras)
