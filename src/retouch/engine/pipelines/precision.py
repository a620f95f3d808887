"""Weights kept in eight or four bits and computed in the network's own dtype: less memory, not more speed.

In eight bits each row of a linear layer has a scale, so that one large weight coarsens its own row only. Norms,
embeddings, the layers at both ends and the modulation stay as they are. Decides nothing about what fits
(`memory_plan.py`).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import nn

from retouch.errors import UnsupportedParameter

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


def compress(
    root: nn.Module,
    precision: str,
    keep: frozenset[nn.Module] = frozenset(),
    device: torch.device = torch.device("cpu"),  # noqa: B008 - a constant
) -> None:
    """Replace the linear layers under `root` in place, one at a time, so that little is held twice.

    device: where four bits are made and stay; eight bits stay where they are. Raises UnsupportedParameter when their
    package is missing.
    """
    for parent, name, child in list(compressible(root, keep)):
        made = normal_float(child, device) if precision == "nf4" else ScaledLinear(child, precision)
        setattr(parent, name, made)


def normal_float(layer: nn.Linear, device: torch.device) -> nn.Module:
    """A linear layer of bitsandbytes with its weight in nf4, and the scales in eight bits."""
    try:
        bnb = importlib.import_module("bitsandbytes.nn")
    except ModuleNotFoundError as error:
        raise UnsupportedParameter(
            "--precision nf4 needs the packages of the extra 'quantized': pip install 'retouch[quantized]'.",
            field="precision",
        ) from error
    dtype = layer.weight.dtype
    made: nn.Module = bnb.Linear4bit(
        layer.in_features, layer.out_features, bias=False, compute_dtype=dtype, quant_type="nf4", device="meta"
    )
    weight = layer.weight.detach().contiguous()
    made.weight = bnb.Params4bit(
        weight, requires_grad=False, quant_type="nf4", compress_statistics=True, module=made
    ).to(device)
    made.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().to(device), requires_grad=False)
    return made
