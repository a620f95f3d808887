"""Muon for kernels and matrices, AdamW for everything else, as one optimiser.

The decoder has to learn fine coefficients whose gradients are small beside the coarse ones';
orthogonal steps move in all directions alike. Steps have AdamW's usual size, so rates carry over.
Source: Jordan et al., Muon (2024); the step's size: Liu et al., Muon is Scalable (2025).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

MOMENTUM = 0.95
BETAS = (0.9, 0.99)


def orthogonal(matrix: Tensor, rounds: int = 5) -> Tensor:
    """Nearly the closest matrix with all singular values 1, by Newton-Schulz. (rows, columns)."""
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    for _ in range(rounds):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Parameters of two or more dimensions take orthogonal steps, the others AdamW's."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                update = self._matrix if parameter.squeeze().ndim >= 2 else self._vector
                parameter.add_(update(parameter), alpha=-group["lr"])

    def _matrix(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(parameter.grad, 1 - MOMENTUM)
        ahead = torch.lerp(parameter.grad, state["momentum"], MOMENTUM)
        flat = orthogonal(ahead.flatten(1))
        return 0.2 * max(flat.shape) ** 0.5 * flat.view_as(parameter)

    def _vector(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state |= {"count": torch.zeros(()), "first": torch.zeros_like(parameter)}
            state["second"] = torch.zeros_like(parameter)
        state["count"] += 1
        count = float(state["count"])
        state["first"].lerp_(parameter.grad, 1 - BETAS[0])
        state["second"].lerp_(parameter.grad.square(), 1 - BETAS[1])
        first = state["first"] / (1 - BETAS[0] ** count)
        return first / ((state["second"] / (1 - BETAS[1] ** count)).sqrt() + 1e-8)
