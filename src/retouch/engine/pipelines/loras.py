"""The LoRAs of one network: read once, checked whole, kept up to a bound, and lent to edits as networks of their own.

diffusers translates the names that trainers give (its own, kohya's, ComfyUI's), peft reads the settings that say how
strong each layer's part is. Reads safetensors only, never a pickle.

Matrices are kept in the host's memory by the content of their file; on the device they live as long as an edit runs
with them. An edit that has none uses the plain network, which nothing here touches. How a layer adds them is
`low_rank.py`'s.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

import torch
from diffusers.loaders import QwenImageLoraLoaderMixin
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from retouch.edit import MAX_LORA_BYTES, LoraFile
from retouch.engine.pipelines.denoising import Network
from retouch.engine.pipelines.hub import first_line
from retouch.engine.pipelines.low_rank import LoraLinear, LowRank, StockLoraLinear
from retouch.engine.pipelines.precision import ScaledLinear
from retouch.errors import InvalidLora

KEPT_BYTES = 4 * 10**9
"""Of all that no edit uses at the moment, in the host's memory."""

DIGESTS = 1024
"""Files whose content's name is remembered."""

PREFIX = "transformer."
"""What diffusers puts before every name."""

PEFT_PREFIX = "base_model.model."
"""What peft puts there when it saves by itself."""

PEFT_CONFIG = "adapter_config.json"
"""Where peft keeps its settings; a single file that was sent here does not bring it."""

Key: TypeAlias = tuple[tuple[str, float], ...]
"""Content and scale of each LoRA, in order."""

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


@dataclass(frozen=True, slots=True)
class Loaded:
    """A LoRA that was read. digest: of its file's content. scale: the caller's."""

    digest: str
    scale: float
    layers: Mapping[str, LowRank]


class Loras:
    """Reads and applies LoRAs; `load` may be called from any thread, `network` from the one that drives the engine.

    exact: in peft's order of operations. max_bytes: of one file. kept_bytes: of those kept in the host's memory.
    """

    def __init__(
        self,
        network: Network,
        device: torch.device,
        *,
        exact: bool = False,
        max_bytes: int = MAX_LORA_BYTES,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self.plain = network
        self.device = device
        self.exact = exact
        self.max_bytes = max_bytes
        self.kept_bytes = kept_bytes
        self._kept: OrderedDict[str, Mapping[str, LowRank]] = OrderedDict()
        self._digests: dict[tuple[str, int, int], str] = {}
        self._reading = threading.Lock()
        self._networks: WeakValueDictionary[Key, Network] = WeakValueDictionary()

    def load(self, files: Sequence[LoraFile]) -> tuple[Loaded, ...]:
        """Each of the files, read unless its content is kept; raises InvalidLora."""
        loaded = []
        with self._reading:  # one at a time: each takes a core, and up to twice its size
            for given in files:
                check_bytes(given, self.max_bytes)
                digest = self._digest(given)
                layers = self._kept.get(digest)
                if layers is None:
                    layers = self._kept[digest] = read_lora(given, self._shapes)
                self._kept.move_to_end(digest)
                loaded.append(Loaded(digest, given.scale, layers))
                while (
                    len(self._kept) > 1
                    and sum(part.nbytes for kept in self._kept.values() for part in kept.values()) > self.kept_bytes
                ):
                    self._kept.popitem(last=False)
        return tuple(loaded)

    def network(self, loaded: Sequence[Loaded]) -> Network:
        """The network with these applied, their matrices on the device; the plain one when they add nothing."""
        used = [lora for lora in loaded if lora.scale]
        key = tuple((lora.digest, lora.scale) for lora in used)
        if not key:
            return self.plain
        network = self._networks.get(key)
        if network is None:
            parts: dict[str, list[LowRank]] = {}
            for lora in used:
                for name, part in lora.layers.items():
                    parts.setdefault(name, []).append(part.scaled(lora.scale).to(self.device, self.plain.dtype))
            family = StockLoraLinear if self.exact else LoraLinear
            plain = self.plain.transformer
            layers = {name: family(plain.get_submodule(name), several) for name, several in parts.items()}
            network = self._networks[key] = self.plain.adapted(layers)
        return network

    def _digest(self, given: LoraFile) -> str:
        """Of the content, and of peft's settings beside it; made once for files that do not change."""
        try:
            known = given.file.stat()
            identity = str(given.file.resolve()), known.st_size, known.st_mtime_ns
            if identity not in self._digests:
                if len(self._digests) == DIGESTS:
                    self._digests.clear()
                with given.file.open("rb") as opened:
                    self._digests[identity] = hashlib.file_digest(opened, "sha256").hexdigest()
            settings = given.file.with_name(PEFT_CONFIG)
            beside = hashlib.sha256(settings.read_bytes()).hexdigest() if settings.is_file() else ""
            return self._digests[identity] + beside
        except OSError as error:
            raise invalid(given, f"cannot be read: {error.strerror}") from error

    @cached_property
    def _shapes(self) -> dict[str, Shape]:
        """Channels in and out of every linear layer."""
        return {
            name: (layer.in_features, layer.out_features)
            for name, layer in self.plain.transformer.named_modules()
            if isinstance(layer, nn.Linear | ScaledLinear)
        }


# --- one file


def read_lora(given: LoraFile, layers: Mapping[str, Shape]) -> dict[str, LowRank]:
    """What a file adds to each layer of a network, by the layer's name. layers: input and output channels of each.

    Raises InvalidLora, naming the file as its caller wrote it, for whatever cannot be used whole.
    """
    weights, config = _weights(given)
    pairs = _pairs(given, weights, layers)
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


def _weights(given: LoraFile) -> tuple[dict[str, torch.Tensor], Config | None]:
    """Weights by diffusers' names, and peft's settings where the file brings them."""
    try:  # names alone at first, from the head of the file
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
    try:
        if any(name.startswith(PEFT_PREFIX) for name in names):
            weights = {n.removeprefix(PEFT_PREFIX): weight for n, weight in load_file(given.file).items()}
            beside = given.file.with_name(PEFT_CONFIG)
            return weights, json.loads(beside.read_text()) if beside.is_file() else None
        weights, config = QwenImageLoraLoaderMixin.lora_state_dict(
            str(given.file), use_safetensors=True, local_files_only=True, return_lora_metadata=True
        )
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, RuntimeError, AttributeError) as error:
        raise invalid(given, f"is named in a way that cannot be translated: {_reason(error)}") from error
    return _without_prefix(weights), None if config is None else _without_prefix(config)


def _without_prefix(named: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(PREFIX): value for name, value in named.items()}


def _pairs(
    given: LoraFile, weights: Mapping[str, torch.Tensor], layers: Mapping[str, Shape]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Both matrices of each layer, by the layer's name, when all of them fit the network's `layers`."""
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
    pairs = {name: (parts["A"], parts["B"]) for name, parts in found.items()}
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
    return pairs


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
    return first_line(error)[:200].rstrip(".")
