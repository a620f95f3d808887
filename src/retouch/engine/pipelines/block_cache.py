"""Reuse of a network's later blocks over steps: how alike two steps must be, and what one edit remembers.

Between neighbouring steps the blocks behind the first add nearly the same to the target's tokens. When the first
block's own addition has changed little since the last whole step, that step's result is used again. References are
left out of the comparison: they hardly change and would hide what does. Computes no block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

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
    reused: int = field(default=0)

    def serves(self, state: DenoiseState, first: Sequence[torch.Tensor]) -> bool:
        """Whether this step may reuse `rest`: one answer for both branches, whose difference is what guides."""
        rules, step = self.rules, state.step_index
        if not self.rest or step < rules.warm_up or step >= state.spec.steps - rules.last:
            return False
        if self.in_a_row >= rules.in_a_row:
            return False
        changes = [_change(now, before) for now, before in zip(first, self.first, strict=True)]
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


def _change(now: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    return (now - before).abs().mean(dtype=torch.float32) / before.abs().mean(dtype=torch.float32)


def reuse_notice(state: DenoiseState, cache: BlockCache) -> Notice:
    """What acceleration came to in a finished edit."""
    return Notice(
        "acceleration",
        "applied",
        f"'{state.spec.acceleration}' reused the later blocks in {cache.reused} of {state.spec.steps} steps; how close "
        "that is to 'none' was not measured for this checkpoint.",
    )
