"""Weights kept in eight bits and computed in the network's own dtype: half the memory, not more speed.

Each row of a linear layer has a scale, so that one large weight coarsens its own row only. Norms, embeddings, the
layers at both ends and the modulation stay as they are. Decides nothing about what fits (`memory_plan.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import nn

STORAGE: dict[str, tuple[torch.dtype, float]] = {"fp8": (torch.float8_e4m3fn, 448.0), "int8": (torch.int8, 127.0)}
"""The dtype of each precision, and the largest number it is used up to."""


class ScaledLinear(nn.Module):
    """A linear layer whose weight is `stored` x `scale`; takes the place of the one it is made of."""

    def __init__(self, layer: nn.Linear, precision: str) -> None:
        super().__init__()
        dtype, largest = STORAGE[precision]
        weight = layer.weight.detach()
        scale = (weight.float().abs().amax(dim=1, keepdim=True) / largest).clamp(min=torch.finfo(torch.float32).tiny)
        scaled = weight.float() / scale
        stored = scaled.round() if dtype == torch.int8 else scaled
        self.stored: torch.Tensor
        self.scale: torch.Tensor
        self.register_buffer("stored", stored.clamp(-largest, largest).to(dtype))
        self.register_buffer("scale", scale.to(weight.dtype))
        self.bias = layer.bias
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return F.linear(values, self.stored.to(self.scale.dtype) * self.scale, self.bias)


def compressible(root: nn.Module, keep: frozenset[nn.Module] = frozenset()) -> Iterator[tuple[Any, str, nn.Linear]]:
    """Every linear layer under `root` with its parent and its name there, but those in `keep`."""
    for parent in root.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.Linear) and child not in keep:
                yield parent, name, child


def compress(root: nn.Module, precision: str, keep: frozenset[nn.Module] = frozenset()) -> None:
    """Replace the linear layers under `root` in place, one at a time, so that little is held twice."""
    for parent, name, child in list(compressible(root, keep)):
        setattr(parent, name, ScaledLinear(child, precision))
