"""The cache of encodings: least recently used first out, bounded by bytes."""

from __future__ import annotations

import numpy as np
import torch

from retouch.engine.pipelines.cache import TensorCache, content_key


def kilobyte() -> torch.Tensor:
    return torch.zeros(256)


def test_a_cache_is_bounded_by_number_as_well() -> None:
    cache = TensorCache(max_bytes=1000, max_entries=2)
    made: list[str] = []

    def make(name: str) -> torch.Tensor:
        made.append(name)
        return torch.zeros(1)

    for name in "abcab":
        cache.get_or_make(name, lambda name=name: make(name))  # type: ignore[misc]
    assert made == ["a", "b", "c", "a", "b"]
    cache.get_or_make("a", lambda: make("a"))
    assert len(made) == 5, "the two newest are held"


def test_a_second_look_gives_the_very_same_tensor() -> None:
    cache = TensorCache(max_bytes=4096)
    assert cache.get_or_make("a", kilobyte) is cache.get_or_make("a", kilobyte)


def test_the_least_recently_used_goes_first() -> None:
    cache = TensorCache(max_bytes=2048)
    first = cache.get_or_make("a", kilobyte)
    second = cache.get_or_make("b", kilobyte)
    assert cache.get_or_make("a", kilobyte) is first
    cache.get_or_make("c", kilobyte)
    assert cache.get_or_make("a", kilobyte) is first
    assert cache.get_or_make("b", kilobyte) is not second


def test_an_entry_larger_than_the_cache_is_given_but_not_kept() -> None:
    cache = TensorCache(max_bytes=100)
    entry = cache.get_or_make("a", kilobyte)
    assert entry.nbytes == 1024
    assert cache.get_or_make("a", kilobyte) is not entry


def test_images_are_distinguished_by_content_and_shape() -> None:
    flat = np.zeros((2, 8, 3), np.uint8)
    assert content_key(flat) == content_key(flat.copy())
    assert content_key(flat) != content_key(flat.reshape(4, 4, 3))
    assert content_key(flat) != content_key(flat + 1)
