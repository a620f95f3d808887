"""Denoising of a masked region alone: after a warm-up only its tokens go through the network.

The other target tokens are known in advance, since the source's pixels are kept there: they move straight from the
noise to the source's latents and are not computed. The references still show the whole source to the region. Knows no
network and draws no mask (`engine/region.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from retouch.edit import Notice
from retouch.engine.pipeline import DenoiseState

WARM_UP = 0.2
"""Share of the steps that are whole: in them the shapes and colours of the image are decided."""


@dataclass(frozen=True, slots=True)
class Region:
    """The tokens one edit may change, and how the others move.

    tokens: (n,) int64, indices of target tokens. source, noise: (1, target tokens, channels) float32.
    """

    tokens: torch.Tensor
    source: torch.Tensor
    noise: torch.Tensor

    def open(self, state: DenoiseState) -> bool:
        """Whether the next step is for the region alone."""
        return state.step_index >= first_step(state.spec.steps)

    def settle(self, latents: torch.Tensor, sigma: float) -> torch.Tensor:
        """`latents` with all others where the source stands at `sigma`."""
        settled = (1 - sigma) * self.source + sigma * self.noise
        settled[:, self.tokens] = latents[:, self.tokens]
        return settled

    def widen(self, velocity: torch.Tensor) -> torch.Tensor:
        """The velocity of all target tokens out of the region's, (1, n, channels) float32."""
        whole = self.noise - self.source
        whole[:, self.tokens] = velocity
        return whole

    def notice(self, steps: int) -> Notice:
        everything = self.source.shape[1]
        return Notice(
            "mask",
            "applied",
            f"From step {first_step(steps) + 1} on, only the mask and a margin were denoised: {len(self.tokens)} of "
            f"{everything} tokens. 'acceleration' none denoises everything.",
        )


def first_step(steps: int) -> int:
    """Index of the first step that is for the region alone."""
    return max(1, math.ceil(steps * WARM_UP))
