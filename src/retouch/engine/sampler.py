"""The noise schedule and the rule that takes latents from one sigma to the next.

Equal to diffusers' FlowMatchEulerDiscreteScheduler in every bit, but without its mutable step index: a
table is a plain tuple that belongs to one edit. Does not know tensors' devices, nor which edit is next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from retouch.errors import UnsupportedParameter

Latents = TypeVar("Latents", bound=Any)
Table: TypeAlias = npt.NDArray[Any]  # float32

_UNSUPPORTED = (
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "invert_sigmas",
    "stochastic_sampling",
)


@dataclass(frozen=True, slots=True)
class NoiseSchedule:
    """How a checkpoint spaces its sigmas; the fields are those of its `scheduler_config.json`.

    base_shift, max_shift: log of the shift at base_tokens and max_tokens target tokens, linear between and
    beyond. shift_terminal: the last sigma before 0, or None for no stretching. shift: used instead, for
    every size, when dynamic is False.
    """

    base_shift: float = 0.5
    max_shift: float = 1.15
    base_tokens: int = 256
    max_tokens: int = 4096
    shift_terminal: float | None = None
    dynamic: bool = True
    exponential: bool = True
    shift: float = 1.0

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> NoiseSchedule:
        """Read a `scheduler_config.json`; raises UnsupportedParameter for a schedule we do not have."""
        for name in _UNSUPPORTED:
            if config.get(name):
                raise UnsupportedParameter(f"The noise schedule option '{name}' is not supported.", field="model")
        return cls(
            base_shift=config.get("base_shift", 0.5),
            max_shift=config.get("max_shift", 1.15),
            base_tokens=config.get("base_image_seq_len", 256),
            max_tokens=config.get("max_image_seq_len", 4096),
            shift_terminal=config.get("shift_terminal") or None,
            dynamic=bool(config.get("use_dynamic_shifting", False)),
            exponential=config.get("time_shift_type", "exponential") == "exponential",
            shift=config.get("shift", 1.0),
        )

    @classmethod
    def of_few_steps(cls) -> NoiseSchedule:
        """What Lightning's LoRAs for Qwen-Image were trained with, the same for every size.

        Source: the examples of ModelTC/Qwen-Image-Lightning, and of diffusers' documentation of Qwen-Image.
        """
        return cls(base_shift=math.log(3), max_shift=math.log(3), max_tokens=8192)

    def sigmas(self, steps: int, target_tokens: int) -> tuple[float, ...]:
        """`steps` + 1 float32 values falling from 1 to 0, for an edit of `target_tokens` packed 2x2 tokens."""
        table: Table = np.linspace(1.0, 1 / steps, steps).astype(np.float32)
        if self.dynamic:
            slope = (self.max_shift - self.base_shift) / (self.max_tokens - self.base_tokens)
            mu = target_tokens * slope + (self.base_shift - slope * self.base_tokens)
            factor = math.exp(mu) if self.exponential else mu
            table = factor / (factor + (1 / table - 1))
        else:
            table = self.shift * table / (1 + (self.shift - 1) * table)
        if self.shift_terminal is not None:  # the distances to 1 are scaled so that the table ends there
            distance = 1 - table
            scale = distance[-1] / (1 - self.shift_terminal)
            if scale != 0:  # else a single step stands at 1, and nothing can be stretched
                table = 1 - (distance / scale)
        return (*(float(sigma) for sigma in table), 0.0)


def step_length(sigma: float, sigma_next: float) -> float:
    """sigma_next - sigma, rounded to float32 as the stock scheduler does."""
    return float(np.float32(sigma_next) - np.float32(sigma))


def euler_step(latents: Latents, velocity: Latents, sigma: float, sigma_next: float) -> Latents:
    """Move latents from sigma to sigma_next along the predicted velocity.

    latents, velocity: arrays or tensors of one shape, float32. Sigmas fall within [0, 1]. Returns a new
    value; inputs are untouched. Source: Lipman et al., Flow Matching for Generative Modeling (2023).
    """
    moved: Latents = latents + step_length(sigma, sigma_next) * velocity
    return moved


def clean_estimate(latents: Latents, velocity: Latents, sigma: float) -> Latents:
    """Where the latents would end if the velocity stayed as it is (x0)."""
    clean: Latents = latents - sigma * velocity
    return clean
