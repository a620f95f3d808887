"""The LoRAs of one network: read once, kept up to a bound, and lent to edits as networks of their own.

Matrices are kept in the host's memory by the content of their file; on the device they live as long as an edit runs
with them. An edit that has none uses the plain network, which nothing here touches.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias
from weakref import WeakValueDictionary

import torch
from torch import nn

from retouch.edit import MAX_LORA_BYTES, LoraFile
from retouch.engine.pipelines.denoising import Network
from retouch.engine.pipelines.lora_file import PEFT_CONFIG, Shape, check_bytes, invalid, read_lora
from retouch.engine.pipelines.low_rank import LoraLinear, LowRank, StockLoraLinear
from retouch.engine.pipelines.precision import ScaledLinear

KEPT_BYTES = 4 * 10**9
"""Of all that no edit uses at the moment, in the host's memory."""

DIGESTS = 1024
"""Files whose content's name is remembered."""

Key: TypeAlias = tuple[tuple[str, float], ...]
"""Content and scale of each LoRA, in order."""


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
        with self._reading:  # one at a time: each takes a core, and up to twice its size
            return tuple(self._load(file) for file in files)

    def network(self, loaded: Sequence[Loaded]) -> Network:
        """The network with these applied; the plain one when they add nothing."""
        used = [lora for lora in loaded if lora.scale]
        key = tuple((lora.digest, lora.scale) for lora in used)
        if not key:
            return self.plain
        network = self._networks.get(key)
        if network is None:
            network = self._networks[key] = self.plain.adapted(self._layers(used))
        return network

    def _load(self, given: LoraFile) -> Loaded:
        check_bytes(given, self.max_bytes)
        digest = self._digest(given)
        layers = self._kept.get(digest)
        if layers is None:
            layers = self._kept[digest] = read_lora(given, self._shapes)
        self._kept.move_to_end(digest)
        while len(self._kept) > 1 and sum(map(_nbytes, self._kept.values())) > self.kept_bytes:
            self._kept.popitem(last=False)
        return Loaded(digest, given.scale, layers)

    def _digest(self, given: LoraFile) -> str:
        """Of the content, and of peft's settings beside it; made once for files that do not change."""
        try:
            identity = _identity(given.file)
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

    def _layers(self, loaded: Sequence[Loaded]) -> dict[str, LoraLinear]:
        """The layers that replace the network's, with their matrices on the device."""
        parts: dict[str, list[LowRank]] = {}
        for lora in loaded:
            for name, part in lora.layers.items():
                parts.setdefault(name, []).append(part.scaled(lora.scale))
        transformer, family = self.plain.transformer, StockLoraLinear if self.exact else LoraLinear
        return {
            name: family(transformer.get_submodule(name), [part.to(self.device, self.plain.dtype) for part in several])
            for name, several in parts.items()
        }


def _identity(file: Path) -> tuple[str, int, int]:
    known = file.stat()
    return str(file.resolve()), known.st_size, known.st_mtime_ns


def _nbytes(layers: Mapping[str, LowRank]) -> int:
    return sum(layer.nbytes for layer in layers.values())
