"""Results of encoding that may be needed again: least recently used first out, bounded by bytes and number.

A hit gives back the very tensors of the miss, so caching can never change an image. Knows no models.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import numpy as np
import torch

from retouch.images import Pixels


@dataclass(slots=True)
class TensorCache:
    """Tensors by key, up to `max_bytes` in all and `max_entries`. An entry of more bytes is made, not kept.

    The number keeps a small model from filling, over thousands of different edits, what is meant for a large one.
    """

    max_bytes: int
    max_entries: int = 128
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
        while self._held_bytes > self.max_bytes or len(self._entries) > self.max_entries:
            _, dropped = self._entries.popitem(last=False)
            self._held_bytes -= dropped.nbytes
        return entry


def content_key(image: Pixels) -> str:
    """A name for these very pixels, uint8 (height, width, 3)."""
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()
