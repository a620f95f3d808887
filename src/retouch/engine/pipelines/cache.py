"""Results of encoding that may be needed again: least recently used first out, bounded by bytes.

A hit gives back the very tensors of the miss, so caching can never change an image. Knows no models.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import torch

from retouch.images import Pixels


@dataclass(slots=True)
class TensorCache:
    """Tensors by key, up to `max_bytes` in all. An entry that is larger than that is made, not kept."""

    max_bytes: int
    _entries: OrderedDict[Hashable, torch.Tensor] = field(default_factory=OrderedDict)
    _held_bytes: int = 0

    def get_or_make(self, key: Hashable, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The tensor of `key`; `make` runs only when it is not held. It must not be changed in place."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
            return entry
        entry = make()
        self._entries[key] = entry
        self._held_bytes += entry.nbytes
        while self._held_bytes > self.max_bytes:
            _, dropped = self._entries.popitem(last=False)
            self._held_bytes -= dropped.nbytes
        return entry


def content_key(image: Pixels) -> str:
    """A name for these very pixels, uint8 (height, width, 3)."""
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(image.tobytes())
    return digest.hexdigest()
