"""What a checkpoint needs of a device, and so how it is loaded: by itself, or together with others.

Counted on the meta device out of the parts' configurations, so it is exact for any folder and costs no memory. The room
for one edit's own work is an estimate. Loads nothing (`loading.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    AutoencoderKLQwenImage21,
    QwenImage21Transformer2DModel,
    QwenImageTransformer2DModel,
)
from torch import nn
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from retouch.catalog import Checkpoint
from retouch.engine.pipeline import SILENT, Speaks
from retouch.engine.pipelines.device import choose_device
from retouch.engine.pipelines.folders import class_name_of, dtype_on, find_folder, json_of, reading
from retouch.engine.pipelines.modulation import modulation_layers
from retouch.engine.pipelines.precision import compressible, gguf_blocks_bytes, gguf_file
from retouch.errors import OutOfMemory, RetouchError, UnsupportedParameter

logger = logging.getLogger(__name__)

QWEN_IMAGE_21 = "QwenImage21Pipeline"
"""The class that a folder of Qwen-Image-2.1 names."""

PRECISIONS = ("bf16", "fp8", "int8", "nf4", "gguf")
"""How the large layers are kept; `gguf` in the bits of a file that is named with it."""

FOUR_BITS = ("nf4", "gguf")
"""Of the network only: words are worth more to an edit than they take, so the language model has eight bits."""

OFFLOADS = ("none", "encoder", "blocks")
"""What is on the device only while it is used: nothing; the text encoder; the network's blocks as well."""

AUTO = (("bf16", "none"), ("bf16", "encoder"), ("fp8", "none"), ("fp8", "encoder"), ("bf16", "blocks"))
"""What `auto` tries, in order: exact ones first, but the one that waits for the bus at every block comes last."""

BYTES_PER_WEIGHT = {"fp8": 1.0, "int8": 1.0, "nf4": 0.5 + 1 / 64 + 4 / 64 / 256}
"""Of a linear layer's weight; nf4 has a byte of scale for 64 weights, and four bytes for 256 of these scales."""

BLOCKS_HELD = 2
"""Of those that are offloaded: the one in use and the next."""

AUTOENCODER_BYTES = 3_240_000_000
"""What the autoencoder's work takes at the most, in bfloat16: for two megapixels. It is 1.6 GB for one, and 1.9 GB for
four, see `vae.py`. Counted, for an attention kernel that keeps no scores."""

ROOM_BYTES = 4 * 10**9
"""For one edit: its state, then either a block's work, or the autoencoder's, or an offloaded encoder's largest layer
with its embeddings of 1.1 GB. Estimated for a megapixel, not measured on a GPU."""

KEPT_BYTES = 850 * 2**20
"""Of encodings and tables that a model keeps on the device besides its weights, at most."""

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

    blocks, encoder: weights of linear layers that can be kept in fewer bits, of the network and the language model.
    block_rest, encoder_rest: what else these have, the vision tower among it. network_rest: what the network has beside
    its blocks. modulation: what makes tables of it and stays in the host's memory. head: of the language model, loaded
    when it is to speak. block_rows, encoder_rows: of the linear layers, each with a scale in eight bits. layers: how
    many blocks there are.
    """

    blocks: int
    block_rest: int
    network_rest: int
    encoder: int
    encoder_rest: int
    vae: int
    modulation: int
    head: int
    block_rows: int
    encoder_rows: int
    layers: int

    def device_bytes(
        self,
        precision: str,
        offload: str = "none",
        *,
        itemsize: int = 2,
        speaks: bool = False,
        blocks_bytes: int | None = None,
    ) -> int:
        """What the weights take of the device, without room for an edit. blocks_bytes: of a file that holds them."""
        blocks = self.block_rest * itemsize
        blocks += _bytes(precision, self.blocks, self.block_rows, itemsize) if blocks_bytes is None else blocks_bytes
        if offload == "blocks":
            blocks = blocks * BLOCKS_HELD // self.layers
        encoder = _bytes("fp8" if precision in FOUR_BITS else precision, self.encoder, self.encoder_rows, itemsize)
        encoder += self.encoder_rest * itemsize
        rest = self.network_rest + self.vae + (self.head if speaks else 0)
        return blocks + (encoder if offload == "none" else 0) + rest * itemsize


def _bytes(precision: str, weights: int, rows: int, itemsize: int) -> int:
    if precision == "bf16":
        return weights * itemsize
    scales = rows * itemsize if precision in ("fp8", "int8") else 0
    return round(weights * BYTES_PER_WEIGHT[precision]) + scales


def count(transformer: Any, encoder: Any, vae: nn.Module) -> Parts:
    """The parts of modules, on whatever device."""
    blocks = transformer.transformer_blocks
    modulation = frozenset(modulation_layers(transformer))
    large = [layer for _, _, layer in compressible(blocks, modulation)]
    words = [layer for _, _, layer in compressible(encoder.model.language_model)]
    makers = [layer for layer in modulation if layer is not transformer.norm_out.linear]
    tables, in_blocks = sum(map(_size, modulation)), sum(map(_size, makers))
    head = _size(encoder.lm_head)
    weights = [sum(layer.weight.numel() for layer in layers) for layers in (large, words)]
    return Parts(
        blocks=weights[0],
        block_rest=_size(blocks) - weights[0] - in_blocks,
        network_rest=_size(transformer) - _size(blocks) - (tables - in_blocks),
        encoder=weights[1],
        encoder_rest=_size(encoder) - weights[1] - head,
        vae=folded_size(vae),
        modulation=tables,
        head=head,
        block_rows=sum(layer.weight.shape[0] for layer in large),
        encoder_rows=sum(layer.weight.shape[0] for layer in words),
        layers=len(blocks),
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
    configs = {part: json_of(folder / part / "config.json") for part in ("transformer", "vae")}
    with torch.device("meta"):
        return count(
            QwenImageTransformer2DModel.from_config(configs["transformer"]),
            Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_pretrained(folder / "text_encoder")),
            AutoencoderKLQwenImage.from_config(configs["vae"]),
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """How a checkpoint is loaded. bytes: what it needs of the device, with room for an edit. file: for `gguf`."""

    precision: str
    offload: str
    bytes: int
    file: Path | None = None

    def __str__(self) -> str:
        return self.precision + OFFLOADED[self.offload]


EXACT = Plan("bf16", "none", 0)
"""Weights in the dtype that is computed in, all of them on the device."""

OFFLOADED = {"none": "", "encoder": " with the encoder swapped", "blocks": " with the blocks swapped"}


def plans(
    parts: Parts,
    precision: str = "auto",
    offload: str = "auto",
    *,
    speaks: bool = False,
    blocks_bytes: int | None = None,
) -> tuple[Plan, ...]:
    """What comes into question for the two options, the most wanted first; see `Parts.device_bytes`."""
    if precision == "auto":
        pairs = [(each, how) for each, how in AUTO if offload in ("auto", how)]
    else:
        possible = OFFLOADS[:2] if precision in FOUR_BITS else OFFLOADS
        pairs = [(precision, how) for how in (possible if offload == "auto" else (offload,))]
    return tuple(
        Plan(each, how, parts.device_bytes(each, how, speaks=speaks, blocks_bytes=blocks_bytes) + ROOM_BYTES)
        for each, how in pairs
    )


def choose(candidates: Sequence[Plan], free_bytes: int) -> Plan | None:
    """The first that fits."""
    return next((plan for plan in candidates if plan.bytes <= free_bytes), None)


def check(name: str, candidates: Sequence[Plan], free_bytes: int) -> Plan:
    """The plan to load by. Raises OutOfMemory with the numbers when none fits."""
    chosen = choose(candidates, free_bytes)
    if chosen is not None:
        return chosen
    raise OutOfMemory(
        f"'{name}' does not fit this device, of which {gigabytes(free_bytes)} are free. It needs "
        f"{'; '.join(needs(candidates))}, {gigabytes(ROOM_BYTES)} of it as room for an edit."
    )


@dataclass(frozen=True, slots=True)
class Shared:
    """How several checkpoints use one device. plans: of each, or None for one that does not fit even by itself.

    swaps: whether only one of them has its weights there at a time.
    """

    plans: tuple[Plan | None, ...]
    swaps: bool


def share(candidates: Sequence[Sequence[Plan]], free_bytes: int) -> Shared:
    """Each as exact as it is alone: side by side where that fits, in turns where it does not."""
    alone = [choose(each, free_bytes) for each in candidates]
    held = [plan.bytes - ROOM_BYTES for plan in alone if plan is not None]
    kept = max(0, len(held) - 1) * KEPT_BYTES
    if sum(held) + kept + ROOM_BYTES <= free_bytes:
        return Shared(tuple(alone), swaps=False)
    return Shared(tuple(choose(each, free_bytes - kept) for each in candidates), swaps=True)


def needs(candidates: Iterable[Plan]) -> Iterator[str]:
    """`bf16: 47.0 GB` and so on, with room for an edit."""
    for plan in candidates:
        yield f"{plan}: {gigabytes(plan.bytes)}"


CARDS = (80, 48, 40, 32, 24, 20, 16, 12, 8, 6)
"""Gibibytes of common cards."""


def by_card(candidates: Sequence[Plan]) -> Iterator[str]:
    """`48 GB: bf16` and so on: what is loaded on an empty card of that size, from the smallest one of its kind."""
    chosen = {card: choose(candidates, card * 2**30) for card in CARDS}
    for card, smaller in zip(CARDS, (*CARDS[1:], 0), strict=True):
        if chosen[card] is not None and chosen[card] != chosen.get(smaller):
            yield f"{card} GB: {chosen[card]}"


def gigabytes(count: int) -> str:
    return f"{count / 10**9:.1f} GB"


# --- as the options say


def plan_of(
    checkpoint: Checkpoint,
    folder: Path,
    precision: str,
    offload: str,
    dtype: torch.dtype,
    *,
    free_bytes: int | None,
    speaks: Speaks = SILENT,
) -> Plan:
    """How to load, as the options say and the device allows.

    free_bytes: of the device; None for a CPU, which has nothing to offload to. Raises UnsupportedParameter, and
    OutOfMemory with the numbers.
    """
    _check_options(checkpoint, precision, offload, dtype, on_cpu=free_bytes is None)
    word, file = _named(precision, folder)
    plain = word in ("auto", "bf16") and offload in ("auto", "none")
    if class_name_of(folder) == QWEN_IMAGE_21 and not plain:
        raise UnsupportedParameter(
            f"'{checkpoint.name}' is loaded whole in bf16 only, not with --precision {word} --offload {offload}.",
            field="precision",
        )
    if free_bytes is None or checkpoint.full_precision:
        return replace(EXACT, precision="bf16" if word == "auto" else word, file=file)
    candidates = _candidates(checkpoint, folder, precision, offload, speaks=speaks)
    plan = check(checkpoint.name, candidates, free_bytes)
    logger.info("%s in %s, %s of the device free", checkpoint.name, plan, gigabytes(free_bytes))
    return replace(plan, bytes=0)


def share_device(
    checkpoints: Sequence[Checkpoint], *, device: str, precision: str, offload: str, speaks: Sequence[Speaks]
) -> Shared:
    """How several checkpoints are loaded onto one device. What cannot be read or loaded by itself has no plan.

    Raises UnsupportedParameter for a device that is not there.
    """
    target = choose_device(device)
    if target.type != "cuda":
        return Shared((None,) * len(checkpoints), swaps=False)
    candidates: list[tuple[Plan, ...]] = []
    for checkpoint, each in zip(checkpoints, speaks, strict=True):
        try:
            _check_options(checkpoint, precision, offload, dtype_on(target, checkpoint), on_cpu=False)
            candidates.append(_candidates(checkpoint, find_folder(checkpoint), precision, offload, speaks=each))
        except RetouchError:  # told when it is loaded
            candidates.append(())
    free = torch.cuda.mem_get_info(target)[0]
    shared = share(candidates, free)
    logger.info("%s of the device free for %d models: %s", gigabytes(free), len(checkpoints), shared)
    return shared


def _candidates(
    checkpoint: Checkpoint, folder: Path, precision: str, offload: str, *, speaks: Speaks
) -> tuple[Plan, ...]:
    if class_name_of(folder) == QWEN_IMAGE_21:
        return (plan_of_21(folder),)
    with reading("configuration", folder):
        parts = parts_of(folder)
    if checkpoint.full_precision:
        return (Plan("auto", "none", parts.device_bytes("bf16", itemsize=4) + ROOM_BYTES),)
    word, file = _named(precision, folder)
    given = None if file is None else gguf_blocks_bytes(file)
    found = plans(parts, word, offload, speaks=speaks.any, blocks_bytes=given)
    return tuple(replace(plan, file=file) for plan in found)


def plan_of_21(folder: Path) -> Plan:
    """What a Qwen-Image-2.1 needs of a GPU, whole and in bfloat16."""
    with reading("configuration", folder), torch.device("meta"):
        encoder = Qwen3VLForConditionalGeneration(Qwen3VLConfig.from_pretrained(folder / "text_encoder"))
        modules = (
            encoder.model,
            QwenImage21Transformer2DModel.from_config(json_of(folder / "transformer" / "config.json")),
            AutoencoderKLQwenImage21.from_config(json_of(folder / "vae" / "config.json")),
        )
    return Plan("bf16", "none", 2 * sum(map(_size, modules)) + ROOM_BYTES)


def _named(precision: str, folder: Path) -> tuple[str, Path | None]:
    """The word of `gguf:FILE`, and the file."""
    word, _, name = precision.partition(":")
    if word != "gguf":
        return word, None
    file = gguf_file(name, folder)
    gguf_blocks_bytes(file)  # whether it is one
    return word, file


def _check_options(checkpoint: Checkpoint, precision: str, offload: str, dtype: torch.dtype, *, on_cpu: bool) -> None:
    precision, colon, _ = precision.partition(":")
    word = precision if precision == "gguf" else precision + colon  # `fp8:` is not one
    for option, given, known in (("precision", word, PRECISIONS), ("offload", offload, OFFLOADS)):
        if given not in ("auto", *known):
            allowed = ", ".join(("auto", *known))
            raise UnsupportedParameter(f"There is no {option} '{given}'; there are: {allowed}.", field=option)
    if checkpoint.full_precision and precision != "auto":
        raise UnsupportedParameter(
            f"'{checkpoint.name}' runs in float32 only: its numbers span more than '{precision}' tells apart.",
            field="precision",
        )
    if on_cpu and offload not in ("auto", "none"):
        raise UnsupportedParameter(
            f"--offload {offload} moves weights between a GPU and the host; on a CPU there is nothing to move.",
            field="offload",
        )
    if dtype == torch.float32 and precision == "bf16":
        raise UnsupportedParameter(
            f"'{checkpoint.name}' computes in float32 here, not in bf16; say auto, fp8 or int8.", field="precision"
        )
    if offload == "blocks" and precision in FOUR_BITS:
        raise UnsupportedParameter(
            f"--offload blocks moves plain weights, not {precision}; with that, say encoder, none or auto.",
            field="offload",
        )
