"""Linear layers with something of low rank added, in a copy of the network that shares every weight with it.

A network with LoRAs is another object beside the one without: the plain one computes what it always did,
so that edits with and without LoRAs may take turns. Reads no file and keeps nothing (`loras.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import nn

_Module = TypeVar("_Module", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class LowRank:
    """What is added to one layer's weight: scale x up x down. down: (rank, in). up: (out, rank)."""

    down: torch.Tensor
    up: torch.Tensor
    scale: float = 1.0

    @property
    def nbytes(self) -> int:
        return self.down.nbytes + self.up.nbytes

    def scaled(self, factor: float) -> LowRank:
        return LowRank(self.down, self.up, self.scale * factor)

    def to(self, device: torch.device, dtype: torch.dtype) -> LowRank:
        return LowRank(self.down.to(device, dtype), self.up.to(device, dtype), self.scale)


class LoraLinear(nn.Module):
    """A layer of the network, and beside it what LoRAs add. `base` is the network's own, shared, never changed."""

    def __init__(self, base: nn.Module, parts: Sequence[LowRank]) -> None:
        super().__init__()
        self.base = base
        self.parts = tuple(parts)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.add(values, self.base(values))

    def add(self, values: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
        """`made`, the plain layer's answer to `values`, with what the LoRAs add. It is overwritten."""
        rows = made.view(-1, made.shape[-1])
        for part in self.parts:
            # In one pass over the answer, which is far larger than anything of low rank.
            rows.addmm_(F.linear(values, part.down).flatten(0, -2), part.up.t(), alpha=part.scale)
        return made

    @property
    def weight(self) -> torch.Tensor:
        """The plain layer's."""
        weight: torch.Tensor = self.base.weight  # type: ignore[assignment]
        return weight

    @property
    def bias(self) -> torch.Tensor | None:
        bias: torch.Tensor | None = self.base.bias  # type: ignore[assignment]
        return bias


class StockLoraLinear(LoraLinear):
    """The same in the order of operations of peft's layer, for parity to the bit; overwrites nothing."""

    def add(self, values: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            made = made + F.linear(F.linear(values, part.down), part.up) * part.scale
        return made


def with_layers(root: _Module, layers: Mapping[str, nn.Module]) -> _Module:
    """A copy of `root` that has other modules at some paths, such as `blocks.0.attn.to_q`, and shares all the rest."""
    twin = copy.copy(root)
    twin.__dict__["_modules"] = dict(root.named_children())
    below: dict[str, dict[str, nn.Module]] = {}
    for path, layer in layers.items():
        name, _, rest = path.partition(".")
        below.setdefault(name, {})[rest] = layer
    for name, inner in below.items():
        child = inner[""] if "" in inner else with_layers(root.get_submodule(name), inner)
        twin.__dict__["_modules"][name] = child
    return twin
