"""What `acceleration` leaves out of an edit: later blocks that would add the same again, and tokens outside the mask.

Blocks: between neighbouring steps the blocks behind the first add nearly the same to the target's tokens. When the
first block's own addition has changed little since the last whole step, that step's result is used again. References
are left out of the comparison: they hardly change and would hide what does.

Tokens: where the edit has a mask, only its region goes through the network after a warm-up. The other target tokens are
known in advance, since the source's pixels are kept there: they move straight from the noise to the source's latents.
The references still show the whole source to the region.

Computes no block and draws no mask (`denoising.py`, `engine/region.py`); fewer steps are the checkpoint's, or a LoRA's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from retouch.edit import Acceleration, Notice
from retouch.engine.pipeline import DenoiseState


@dataclass(frozen=True, slots=True)
class ReuseRules:
    """When a step may reuse another's blocks.

    threshold: the largest mean change of the first block's addition, relative to its mean size; 0 reuses nothing.
    warm_up, last: steps at the start and the end that are always whole. in_a_row: reusing steps between two whole ones.
    """

    threshold: float
    warm_up: int
    last: int
    in_a_row: int


RULES = {
    # What the guides of vLLM-Omni and SGLang set for Qwen-Image with cache-dit, and SGLang's defaults for it. Both
    # compare over references too, and neither was measured with this network here.
    Acceleration.REGULAR: ReuseRules(threshold=0.12, warm_up=4, last=2, in_a_row=2),
    Acceleration.HIGH: ReuseRules(threshold=0.24, warm_up=4, last=1, in_a_row=3),
}


@dataclass(slots=True)
class BlockCache:
    """What one edit remembers of its last whole step; for each guidance branch a tensor (1, target tokens, width).

    first: what the first block added. rest: what all others added.
    """

    rules: ReuseRules
    first: tuple[torch.Tensor, ...] = ()
    rest: tuple[torch.Tensor, ...] = ()
    in_a_row: int = 0
    reused: int = 0

    def serves(self, state: DenoiseState, first: Sequence[torch.Tensor]) -> bool:
        """Whether this step may reuse `rest`: one answer for both branches, whose difference is what guides."""
        rules, step = self.rules, state.step_index
        if not self.rest or step < rules.warm_up or step >= state.spec.steps - rules.last:
            return False
        if self.in_a_row >= rules.in_a_row:
            return False
        changes = [
            (now - before).abs().mean(dtype=torch.float32) / before.abs().mean(dtype=torch.float32)
            for now, before in zip(first, self.first, strict=True)
        ]
        return bool(torch.stack(changes).max() < rules.threshold)

    def keep(self, first: Sequence[torch.Tensor], rest: Sequence[torch.Tensor]) -> None:
        """After a whole step."""
        self.first, self.rest, self.in_a_row = tuple(first), tuple(rest), 0

    def narrow(self, tokens: torch.Tensor) -> None:
        """Forget all target tokens but these, which alone go on."""
        self.first = tuple(tensor[:, tokens] for tensor in self.first)
        self.rest = tuple(tensor[:, tokens] for tensor in self.rest)

    def count_reuse(self) -> None:
        self.in_a_row += 1
        self.reused += 1

    def notice(self, state: DenoiseState) -> Notice:
        """What it came to in a finished edit."""
        return Notice(
            "acceleration",
            "applied",
            f"'{state.spec.acceleration}' reused the later blocks in {self.reused} of {state.spec.steps} steps; how "
            "close that is to 'none' was not measured for this checkpoint.",
        )


REGION_WARM_UP = 0.2
"""Share of the steps that are whole: in them the shapes and colours of the image are decided."""


def first_region_step(steps: int) -> int:
    """Index of the first step that is for the region alone."""
    return max(1, math.ceil(steps * REGION_WARM_UP))


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
        return state.step_index >= first_region_step(state.spec.steps)

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
            f"From step {first_region_step(steps) + 1} on, only the mask and a margin were denoised: "
            f"{len(self.tokens)} of {everything} tokens. 'acceleration' none denoises everything.",
        )
