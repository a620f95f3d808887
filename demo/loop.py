"""The training loop of every stage: a clock, a schedule, an average of the weights, saving and resuming.

A stage is planned in minutes of its own time. The clock counts only the seconds spent in the stage and is saved
with it, so that a stage can be stopped at any point and taken up again. What is trained on what stands in `stages`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

LOWEST_RATE = 0.02  # of the peak, at the end of the planned time
AVERAGE_DECAY = 0.998


@dataclass(frozen=True)
class Schedule:
    """Learning rate: a short warm-up in steps, then a cosine over the stage's planned time."""

    peak: float
    planned_s: float
    warmup_steps: int = 100

    def rate(self, step: int, elapsed_s: float) -> float:
        done = min(elapsed_s / self.planned_s, 1.0)
        cosine = LOWEST_RATE + (1 - LOWEST_RATE) * 0.5 * (1 + math.cos(math.pi * done))
        return self.peak * cosine * min(1.0, (step + 1) / self.warmup_steps)


class Stage:
    """One network in training, taken up where `folder` has it saved. `tick` is one optimiser step.

    orthogonal_steps: matrices and convolution kernels are trained by Muon, everything else by AdamW. The decoder has
    to learn fine coefficients whose gradients are small beside the coarse ones'; Muon moves in all directions alike.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        network: nn.Module,
        schedule: Schedule,
        *,
        weight_decay: float = 1e-4,
        orthogonal_steps: bool = False,
    ) -> None:
        self.name, self.network, self.schedule = name, network, schedule
        self.path = folder / f"{name}.pt"
        self.step, self.elapsed_s = 0, 0.0
        trained = [p for p in network.parameters() if p.requires_grad]
        kernels = [p for p in trained if orthogonal_steps and p.squeeze().ndim >= 2]
        # Muon takes matrices only: each kernel as (outputs, the rest), in the same memory, which is channels last.
        self.matrices = [(p, nn.Parameter(p.detach().movedim(1, -1).view(len(p), -1))) for p in kernels]
        taken = {id(p) for p in kernels}
        settings = {"lr": schedule.peak, "weight_decay": weight_decay}
        self.optimisers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW([p for p in trained if id(p) not in taken], betas=(0.9, 0.99), **settings)
        ]
        if kernels:
            matrices = [matrix for _, matrix in self.matrices]
            self.optimisers.append(torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **settings))
        self.average = {k: v.detach().clone() for k, v in network.state_dict().items()}
        if self.path.exists():
            saved = torch.load(self.path, weights_only=True)
            network.load_state_dict(saved["network"])
            for optimiser, state in zip(self.optimisers, saved["optimisers"], strict=True):
                optimiser.load_state_dict(state)
            self.average, self.step, self.elapsed_s = saved["average"], saved["step"], saved["elapsed_s"]
            print(f"{name}: resumed at step {self.step}, {self.elapsed_s:.0f} s", flush=True)
        self._started = time.monotonic() - self.elapsed_s

    def tick(self, loss: Tensor) -> None:
        """One optimiser step. Raises FloatingPointError before a loss that is no number reaches what is saved."""
        if not torch.isfinite(loss):
            raise FloatingPointError(f"{self.name}: the loss is {loss.item()} at step {self.step}")
        self.network.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for kernel, matrix in self.matrices:
            matrix.grad = None if kernel.grad is None else kernel.grad.movedim(1, -1).reshape(matrix.shape)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.schedule.rate(self.step, self.elapsed_s)
            optimiser.step()
        self.step += 1
        self.elapsed_s = time.monotonic() - self._started
        decay = min(AVERAGE_DECAY, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for key, value in self.network.state_dict().items():
                if value.is_floating_point():
                    self.average[key].lerp_(value, 1 - decay)

    def save(self) -> None:
        saved = {"network": self.network.state_dict(), "optimisers": [each.state_dict() for each in self.optimisers]}
        saved |= {"average": self.average, "step": self.step, "elapsed_s": self.elapsed_s}
        partial = self.path.with_suffix(".partial")
        torch.save(saved, partial)
        partial.rename(self.path)

    def run(self, loss: Callable[[], Tensor], report: Callable[[], str], every: int) -> None:
        """Train until the planned time is used up; log and save each `every` steps and at the end.

        loss: draws a batch and computes its loss. report: figures for the log.
        """
        smooth = 0.0
        while self.elapsed_s < self.schedule.planned_s:
            value = loss()
            self.tick(value)
            smooth += max(0.02, 1 / self.step) * (value.item() - smooth)
            if self.step % every == 0 or self.elapsed_s >= self.schedule.planned_s:
                print(f"{self.name} {self.step} {self.elapsed_s:.0f}s loss {smooth:.4f} {report()}", flush=True)
                self.save()


def seeded(seed: int, number: int, step: int) -> np.random.Generator:
    """A stage's random numbers from this step on, numpy's and torch's: a resumed call does not repeat the first."""
    torch.manual_seed(int(np.random.SeedSequence([seed, number, step]).generate_state(1)[0]))
    return np.random.default_rng([seed, number, step])


def averaged(path: Path) -> dict[str, Tensor]:
    """The averaged weights of a saved stage."""
    weights: dict[str, Tensor] = torch.load(path, weights_only=True)["average"]
    return weights
