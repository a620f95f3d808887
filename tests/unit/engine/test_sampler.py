"""The noise schedule against the stock scheduler, bit for bit, and the Euler rule."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from retouch.engine.sampler import NoiseSchedule, clean_estimate, euler_step
from retouch.errors import UnsupportedParameter

HUB = {
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 0.9,
    "base_image_seq_len": 256,
    "max_image_seq_len": 8192,
    "shift_terminal": 0.02,
    "time_shift_type": "exponential",
    "shift": 1.0,
    "num_train_timesteps": 1000,
}
FEW_STEPS = HUB | {"base_shift": math.log(3), "max_shift": math.log(3), "shift_terminal": None}
LINEAR = HUB | {"time_shift_type": "linear", "shift_terminal": None}
STATIC = HUB | {"use_dynamic_shifting": False, "shift": 3.0, "shift_terminal": None}


@pytest.mark.parametrize("config", [HUB, FEW_STEPS, LINEAR, STATIC], ids=["hub", "few-steps", "linear", "static"])
@pytest.mark.parametrize("steps", [2, 3, 4, 8, 28, 30, 40, 50, 100])
@pytest.mark.parametrize("target_tokens", [64, 256, 1024, 4096, 4144, 16384])
def test_the_table_is_the_stock_schedulers_to_the_bit(
    config: dict[str, object], steps: int, target_tokens: int
) -> None:
    stock = FlowMatchEulerDiscreteScheduler(**config)
    schedule = NoiseSchedule.from_config(config)
    slope = (config["max_shift"] - config["base_shift"]) / (8192 - 256)  # as the stock pipelines compute it
    mu = target_tokens * slope + (config["base_shift"] - slope * 256)
    stock.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    table = schedule.sigmas(steps, target_tokens)
    assert torch.equal(torch.tensor(table, dtype=torch.float32), stock.sigmas)


def test_the_last_sigma_before_zero_is_the_terminal_one() -> None:
    table = NoiseSchedule.from_config(HUB).sigmas(40, 4096)
    assert table[0] == 1.0
    assert table[-2] == pytest.approx(0.02)
    assert table[-1] == 0.0
    assert all(later < earlier for earlier, later in itertools.pairwise(table))


@pytest.mark.parametrize("config", [HUB, FEW_STEPS])
def test_a_single_step_goes_from_noise_to_image(config: dict[str, object]) -> None:
    assert NoiseSchedule.from_config(config).sigmas(1, 4096) == (1.0, 0.0)


@pytest.mark.parametrize("name", ["use_karras_sigmas", "use_beta_sigmas", "invert_sigmas", "stochastic_sampling"])
def test_a_schedule_we_do_not_have_is_refused_by_name(name: str) -> None:
    with pytest.raises(UnsupportedParameter, match=name):
        NoiseSchedule.from_config(HUB | {name: True})


def test_a_step_is_the_stock_schedulers_to_the_bit() -> None:
    stock = FlowMatchEulerDiscreteScheduler(**HUB)
    table = NoiseSchedule.from_config(HUB).sigmas(7, 256)
    stock.set_timesteps(sigmas=np.linspace(1.0, 1 / 7, 7), mu=0.5)
    generator = torch.Generator().manual_seed(1)
    latents = expected = torch.randn(1, 256, 64, generator=generator)
    for index, timestep in enumerate(stock.timesteps):
        velocity = torch.randn(1, 256, 64, generator=generator)
        expected = stock.step(velocity, timestep, expected, return_dict=False)[0]
        latents = euler_step(latents, velocity, table[index], table[index + 1])
    assert torch.equal(latents, expected)


def test_a_true_velocity_leads_straight_to_the_image() -> None:
    image, noise = np.full(4, 0.25), np.array([1.0, -1.0, 0.5, 0.0])
    at_half = 0.5 * image + 0.5 * noise
    np.testing.assert_allclose(clean_estimate(at_half, noise - image, 0.5), image)
    np.testing.assert_allclose(euler_step(at_half, noise - image, 0.5, 0.0), image)
