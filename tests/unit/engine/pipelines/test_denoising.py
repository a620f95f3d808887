"""The fast forward at the full size of the real network, without its numbers."""

from __future__ import annotations

import pytest
import torch
from diffusers import QwenImageTransformer2DModel

from retouch.edit import EditSpec
from retouch.engine.pipeline import BatchKey, DenoiseState
from retouch.engine.pipelines.denoising import FastNetwork, PlainNetwork


def full_size_state(*, guided: bool) -> DenoiseState:
    """One megapixel with two references, on the device that holds shapes only."""
    key = BatchKey((64, 64), ((64, 64), (48, 86)), guided=guided)
    with torch.device("meta"):
        return DenoiseState(
            spec=EditSpec("", 1024, 1024, seed=0, steps=40),
            key=key,
            sigmas=(1.0, 0.5, 0.0),
            latents=torch.empty(1, 64 * 64, 64),
            references=torch.empty(1, 64 * 64 + 48 * 86, 64, dtype=torch.bfloat16),
            prompt_embeds=torch.empty(1, 420, 3584, dtype=torch.bfloat16),
            negative_embeds=torch.empty(1, 410, 3584, dtype=torch.bfloat16) if guided else None,
        )


@pytest.mark.parametrize("zero_cond_t", [False, True], ids=["2509", "2511"])
@pytest.mark.parametrize("guided", [False, True])
def test_shapes_and_dtypes_fit_at_twenty_billion_parameters(zero_cond_t: bool, guided: bool) -> None:
    with torch.device("meta"):
        transformer = QwenImageTransformer2DModel(num_layers=2, zero_cond_t=zero_cond_t).to(torch.bfloat16)
    state = full_size_state(guided=guided)
    with torch.inference_mode():
        for network in (FastNetwork(transformer), PlainNetwork(transformer)):
            velocity, without = network.velocities(state, state.latents, 0.5)
            assert velocity.shape == (1, 4096, 64)
            assert velocity.dtype == torch.bfloat16
            assert (without is not None) == guided


def test_projections_and_modulation_are_made_once_for_all_steps() -> None:
    with torch.device("meta"):
        transformer = QwenImageTransformer2DModel(num_layers=2).to(torch.bfloat16)
    calls = []
    transformer.txt_in.register_forward_hook(lambda *_: calls.append("text"))
    network, state = FastNetwork(transformer), full_size_state(guided=True)
    with torch.inference_mode():
        for sigma in (1.0, 0.5, 0.5):
            network.velocities(state, state.latents, sigma)
    assert calls == ["text", "text"]
    assert network.modulation.made == 1
