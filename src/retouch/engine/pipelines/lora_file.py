"""A LoRA's file as checked matrices of low rank for the layers of one network, in the host's memory.

diffusers translates the names that trainers give (its own, kohya's, ComfyUI's), peft reads the settings that say how
strong each layer's part is. Reads safetensors only, never a pickle. Applies nothing (`low_rank.py`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from diffusers.loaders import QwenImageLoraLoaderMixin
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from retouch.edit import LoraFile
from retouch.engine.pipelines.low_rank import LowRank
from retouch.errors import InvalidLora

PREFIX = "transformer."
"""What diffusers puts before every name."""

PEFT_PREFIX = "base_model.model."
"""What peft puts there when it saves by itself."""

PEFT_CONFIG = "adapter_config.json"

Shape: TypeAlias = tuple[int, int]
Config: TypeAlias = dict[str, Any]

_SETTINGS = ("r", "lora_alpha", "alpha_pattern", "use_rslora")
"""What of peft's settings decides how strong a part is; its rank shows in its shape."""

_PLAIN_PATTERN = re.compile(r"\^?[A-Za-z0-9_.]{1,200}")
_LOW_RANK = re.compile(r"(.+)\.lora_([AB])\.weight")
_PICKLES = (b"PK\x03\x04", b"\x80")
_OTHER_KINDS = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    ".lokr_": "LoKr",
    ".hada_": "LoHa",
    ".oft_": "OFT",
    ".boft_": "BOFT",
}
"""Parts of names that tell other adapters; they are more than a matrix of low rank."""


def read_lora(given: LoraFile, layers: Mapping[str, Shape]) -> dict[str, LowRank]:
    """What a file adds to each layer of a network, by the layer's name. layers: input and output channels of each.

    Raises InvalidLora, naming the file as its caller wrote it, for whatever cannot be used whole.
    """
    weights, config = _translated(given, _names(given))
    pairs = _pairs(given, weights)
    _check_fit(given, layers, pairs)
    strength = _strength(given, config)
    return {  # cloned, because they may be mapped from a file that is changed meanwhile
        name: LowRank(down.clone(), up.clone(), strength(name, down.shape[0])) for name, (down, up) in pairs.items()
    }


def check_bytes(given: LoraFile, max_bytes: int) -> None:
    """Raise InvalidLora for what can be seen before the file is read: its size, and the first bytes of a pickle."""
    try:
        size = given.file.stat().st_size
        with given.file.open("rb") as opened:
            head = opened.read(8)
    except OSError as error:
        raise invalid(given, f"cannot be read: {error.strerror}") from error
    if size > max_bytes:
        raise invalid(
            given, f"has {size / 1e9:.2f} GB; at most {max_bytes / 1e9:.2f} GB are allowed", max_bytes=max_bytes
        )
    if head.startswith(_PICKLES):
        raise invalid(given, "is a pickle, which could run code; save it as safetensors")


def invalid(given: LoraFile, what: str, **context: int) -> InvalidLora:
    return InvalidLora(f"The LoRA '{given.name[:200]}' {what}.", field=f"{given.field}.path", **context)


def _names(given: LoraFile) -> list[str]:
    """Of the weights, from the head of the file alone."""
    try:
        with safe_open(given.file, framework="pt") as opened:
            names = list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise invalid(given, f"is no safetensors file: {_reason(error)}") from error
    for part, kind in _OTHER_KINDS.items():
        if any(part in name for name in names):
            raise invalid(given, f"is a {kind}; this engine applies plain LoRAs only")
    if not any("lora" in name for name in names):
        example = f", such as '{names[0][:100]}'" if names else ""
        raise invalid(given, f"is no LoRA: none of its {len(names)} weights is one of a LoRA{example}")
    return names


def _translated(given: LoraFile, names: Sequence[str]) -> tuple[dict[str, torch.Tensor], Config | None]:
    """Weights by diffusers' names, and peft's settings where the file brings them."""
    try:
        if any(name.startswith(PEFT_PREFIX) for name in names):
            weights = {n.removeprefix(PEFT_PREFIX): weight for n, weight in load_file(given.file).items()}
            return weights, _peft_config(given)
        weights, config = QwenImageLoraLoaderMixin.lora_state_dict(
            str(given.file), use_safetensors=True, local_files_only=True, return_lora_metadata=True
        )
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, RuntimeError, AttributeError) as error:
        raise invalid(given, f"is named in a way that cannot be translated: {_reason(error)}") from error
    return _without_prefix(weights), None if config is None else _without_prefix(config)


def _without_prefix(named: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(PREFIX): value for name, value in named.items()}


def _peft_config(given: LoraFile) -> Config | None:
    """peft keeps its settings in a file of their own, which a single file that was sent here does not bring."""
    beside = given.file.with_name(PEFT_CONFIG)
    return json.loads(beside.read_text()) if beside.is_file() else None


def _pairs(given: LoraFile, weights: Mapping[str, torch.Tensor]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Both matrices of each layer, by the layer's name."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, weight in weights.items():
        match = _LOW_RANK.fullmatch(name)
        if match is None:
            raise invalid(given, f"holds '{name[:100]}', which is no part of a LoRA for this network")
        if not weight.is_floating_point() or weight.dim() != 2 or not weight.numel():
            raise invalid(given, f"holds '{name[:100]}' of {weight.dtype} in {weight.dim()} dimensions; two are needed")
        if not torch.isfinite(weight).all():
            raise invalid(given, f"is damaged: '{name[:100]}' holds numbers that are not finite")
        found.setdefault(match[1], {})[match[2]] = weight
    half = next((name for name, parts in found.items() if len(parts) != 2), None)
    if half is not None:
        raise invalid(given, f"is not whole: '{half[:100]}' has one of its two matrices")
    return {name: (parts["A"], parts["B"]) for name, parts in found.items()}


def _check_fit(
    given: LoraFile, layers: Mapping[str, Shape], pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
) -> None:
    strange = [name for name in pairs if name not in layers]
    if strange:
        raise invalid(
            given,
            f"does not fit this network: {len(strange)} of its {len(pairs)} layers are not there, such as "
            f"'{strange[0][:100]}'",
        )
    for name, (down, up) in pairs.items():
        inner, outer = layers[name]
        if (down.shape[1], up.shape[0]) != (inner, outer):
            raise invalid(
                given,
                f"does not fit this network: its '{name}' goes from {down.shape[1]} to {up.shape[0]} channels, the "
                f"network's from {inner} to {outer}",
            )
        if down.shape[0] != up.shape[1]:
            raise invalid(given, f"is damaged: the ranks of '{name}' are {down.shape[0]} and {up.shape[1]}")


def _strength(given: LoraFile, config: Config | None) -> Callable[[str, int], float]:
    """What peft multiplies a layer's part with, by the layer's name and rank.

    Without settings it is 1: then alphas were multiplied into the weights while they were translated.
    """
    if config is None:
        return lambda _name, _rank: 1.0

    from peft import LoraConfig
    from peft.utils.other import get_pattern_key

    try:
        patterns = [*config.get("rank_pattern", {}), *config.get("alpha_pattern", {})]
        if not all(_PLAIN_PATTERN.fullmatch(pattern) for pattern in patterns):  # peft runs them as expressions
            raise ValueError("its patterns of ranks or alphas are no plain names")
        if config.get("use_dora") or config.get("lora_bias"):
            raise ValueError("use_dora and lora_bias are more than a plain LoRA")
        settings = LoraConfig(**{name: config[name] for name in _SETTINGS if name in config})
        alphas = settings.alpha_pattern or {}

        def strength(name: str, rank: int) -> float:
            alpha = alphas.get(get_pattern_key(list(alphas), name), settings.lora_alpha)
            return float(alpha / (math.sqrt(rank) if settings.use_rslora else rank))

        if not all(math.isfinite(strength(name.removeprefix("^"), 1)) for name in ("", *alphas)):
            raise ValueError("an alpha is not finite")
    except (ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise invalid(given, f"has settings that cannot be used: {_reason(error)}") from error
    return strength


def _reason(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200].rstrip(".")
