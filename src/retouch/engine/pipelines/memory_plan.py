"""What a checkpoint needs of a device, told before anything is loaded.

Counted on the meta device out of the parts' configurations, so it is exact for any folder and costs no memory. The room
for one edit's own work is an estimate. Loads nothing and measures no device.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from torch import nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from retouch.engine.pipelines.modulation import modulation_layers
from retouch.engine.pipelines.precision import compressible
from retouch.errors import OutOfMemory

PRECISIONS = ("bf16", "fp8", "int8")

ROOM_BYTES = 4 * 10**9
"""For one edit of a megapixel: its state, a block's work, the decoder's 1.4 GB. Estimated, not measured on a GPU."""

FULL_ENCODER: dict[str, Any] = {
    "text_config": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
    },
    "vision_config": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}
    | {"out_hidden_size": 3584},
}
"""Qwen2.5-VL-7B, the text encoder of the large checkpoints."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Parameters of a checkpoint by what can be done with them.

    blocks, encoder: weights of linear layers that eight bits can hold, of the network and the language model. rest:
    everything else on the device. modulation: replaced by a table there. head: of the language model, loaded when it
    is to speak. rows: of the compressible layers, each with a scale.
    """

    blocks: int
    encoder: int
    rest: int
    modulation: int
    head: int
    rows: int

    def device_bytes(self, precision: str, *, itemsize: int = 2, speaks: bool = False) -> int:
        """What the weights take of the device, without room for an edit."""
        large = self.blocks + self.encoder
        rest = (self.rest + (self.head if speaks else 0)) * itemsize
        if precision == "bf16":
            return large * itemsize + rest
        return large + self.rows * itemsize + rest


def count(transformer: nn.Module, encoder: nn.Module, vae: nn.Module) -> Parts:
    """The parts of modules, on whatever device."""
    modulation = frozenset(modulation_layers(transformer))
    blocks = [layer for _, _, layer in compressible(transformer.transformer_blocks, modulation)]  # type: ignore[arg-type]
    words = [layer for _, _, layer in compressible(encoder.model.language_model)]  # type: ignore[union-attr, arg-type]
    tables = sum(_size(layer) for layer in modulation)
    head = _size(encoder.lm_head)  # type: ignore[arg-type]
    everything = _size(transformer) + _size(encoder) + folded_size(vae)
    large = [sum(layer.weight.numel() for layer in layers) for layers in (blocks, words)]
    return Parts(
        blocks=large[0],
        encoder=large[1],
        rest=everything - sum(large) - tables - head,
        modulation=tables,
        head=head,
        rows=sum(layer.weight.shape[0] for layer in (*blocks, *words)),
    )


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def folded_size(vae: nn.Module) -> int:
    """Parameters that stay of an autoencoder: the last slice of each kernel over time, nothing that changes frames."""
    sizes = (
        weight.numel() // (weight.shape[2] if weight.dim() == 5 else 1)
        for name, weight in vae.named_parameters()
        if "time_conv" not in name
    )
    return sum(sizes)


@cache
def full_size() -> Parts:
    """The large checkpoints', which are alike."""
    with torch.device("meta"):
        encoder = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**FULL_ENCODER))
        return count(QwenImageTransformer2DModel(zero_cond_t=True), encoder, AutoencoderKLQwenImage())


def parts_of(folder: Path) -> Parts:
    """Of a folder in the hub's layout, by its configurations."""
    configs = {part: json.loads((folder / part / "config.json").read_text()) for part in ("transformer", "vae")}
    with torch.device("meta"):
        return count(
            QwenImageTransformer2DModel.from_config(configs["transformer"]),
            Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_pretrained(folder / "text_encoder")),
            AutoencoderKLQwenImage.from_config(configs["vae"]),
        )


def choose(parts: Parts, free_bytes: int, *, speaks: bool = False) -> str | None:
    """The most exact precision that leaves room for an edit, or None."""
    for precision in PRECISIONS:
        if parts.device_bytes(precision, speaks=speaks) + ROOM_BYTES <= free_bytes:
            return precision
    return None


def check(name: str, parts: Parts, precision: str, free_bytes: int, *, speaks: bool = False) -> str:
    """The precision to load in; `auto` chooses. Raises OutOfMemory with the numbers when it does not fit."""
    chosen = choose(parts, free_bytes, speaks=speaks) if precision == "auto" else precision
    if chosen is not None and parts.device_bytes(chosen, speaks=speaks) + ROOM_BYTES <= free_bytes:
        return chosen
    raise OutOfMemory(
        f"'{name}' does not fit this device, of which {gigabytes(free_bytes)} are free. It needs "
        f"{'; '.join(needs(parts, speaks=speaks))}, {gigabytes(ROOM_BYTES)} of it as room for an edit."
    )


def needs(parts: Parts, *, speaks: bool = False) -> Iterable[str]:
    """`bf16: 47.0 GB` and so on, with room for an edit."""
    for precision in PRECISIONS:
        yield f"{precision}: {gigabytes(parts.device_bytes(precision, speaks=speaks) + ROOM_BYTES)}"


def gigabytes(count: int) -> str:
    return f"{count / 10**9:.1f} GB"
