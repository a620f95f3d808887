"""Weights kept in eight or four bits and computed in the network's own dtype: less memory, not more speed.

In eight bits each row of a linear layer has a scale, so that one large weight coarsens its own row only. A GGUF file
keeps the bits it has, by diffusers' quantizer. Norms, embeddings, the layers at both ends and the modulation stay as
they are. Decides nothing about what fits (`memory_plan.py`).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from diffusers import GGUFQuantizationConfig, QwenImageTransformer2DModel
from torch import nn

from retouch.engine.pipelines.hub import first_line
from retouch.engine.pipelines.modulation import MODULATION
from retouch.errors import UnknownModel, UnsupportedParameter

STORAGE: dict[str, tuple[torch.dtype, float]] = {"fp8": (torch.float8_e4m3fn, 448.0), "int8": (torch.int8, 127.0)}
"""The dtype of each precision, and the largest number it is used up to."""

DENSE = (*MODULATION, "img_in", "txt_in", "time_text_embed", "norm_out", "proj_out")
"""Parts of a network that are not kept in a GGUF file's bits."""


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
    bnb = _package("bitsandbytes.nn", "nf4")
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


def gguf_file(given: str, folder: Path) -> Path:
    """The file that `gguf` means: a path, or with an empty one the only such file of a checkpoint's folder.

    Raises UnknownModel.
    """
    if given:
        file = Path(given).expanduser()
        if not file.is_file():
            raise UnknownModel(f"There is no file '{given}' for --precision gguf.", field="precision")
        return file
    found = sorted((*folder.glob("*.gguf"), *folder.glob("transformer/*.gguf")))
    if len(found) != 1:
        raise UnknownModel(
            f"'{folder}' holds {len(found)} GGUF files; name the one you mean: --precision gguf:FILE.",
            field="precision",
        )
    return found[0]


def gguf_blocks_bytes(file: Path) -> int:
    """What the linear layers of the blocks take in the file's bits. Reads the head of the file.

    Raises UnsupportedParameter without the package that reads it, UnknownModel for a file that is none.
    """
    gguf = _package("gguf", "gguf")
    try:
        tensors = gguf.GGUFReader(file).tensors
    except (ValueError, OSError, IndexError, KeyError) as error:
        raise UnknownModel(f"'{file}' is no GGUF file: {first_line(error)}", field="precision") from error
    sizes = [
        int(each.n_bytes)
        for each in tensors
        if each.name.startswith("transformer_blocks.") and len(each.shape) == 2
        if not any(f".{part}." in each.name for part in MODULATION)
    ]
    if not sizes:
        raise UnknownModel(f"'{file}' holds no Qwen-Image network: it has no transformer_blocks.", field="precision")
    return sum(sizes)


def read_gguf(file: Path, config: Path, dtype: torch.dtype) -> QwenImageTransformer2DModel:
    """The network in the host's memory, its blocks' linear layers in the file's bits.

    config: folder with its configuration, which the file does not hold.
    """
    how = GGUFQuantizationConfig(compute_dtype=dtype)
    how.modules_to_not_convert = list(DENSE)
    network: Any = QwenImageTransformer2DModel.from_single_file(
        str(file), config=str(config), quantization_config=how, torch_dtype=dtype, local_files_only=True
    )
    missing = [name for name, weight in network.named_parameters() if weight.is_meta]
    if missing:
        raise OSError(f"weights are missing, such as {missing[0]}")
    return network.eval()


def _package(name: str, precision: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UnsupportedParameter(
            f"--precision {precision} needs the packages of the extra 'quantized': pip install 'retouch[quantized]'.",
            field="precision",
        ) from error
