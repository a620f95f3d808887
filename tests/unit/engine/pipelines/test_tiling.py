"""Tiles of a large image are the whole image, to rounding, and hold no more memory than a smaller whole one."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLQwenImage
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from retouch.engine.pipelines import memory_plan, vae
from retouch.engine.pipelines.vae import CELL, FoldedVae, Tiling
from tests.tiny_checkpoints import build_vae

WHOLE = Tiling(above=10**9)
SMALL = Tiling(above=96 * 96, side=96)
SIZES = [(208, 176), (96, 320), (400, 104)]


def real_layout() -> AutoencoderKLQwenImage:
    """Two residual blocks a level, so that convolutions reach as far as those of the large checkpoints."""
    return AutoencoderKLQwenImage(base_dim=8, z_dim=16).eval()


@pytest.fixture(params=[build_vae, real_layout], ids=["tiny", "real layout"], scope="module")
def pair(request: pytest.FixtureRequest) -> tuple[FoldedVae, FoldedVae]:
    torch.manual_seed(3)
    stock = request.param()
    return FoldedVae(copy.deepcopy(stock), WHOLE), FoldedVae(stock, SMALL)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("size", SIZES)
def test_tiles_are_the_whole_image_at_their_borders_and_elsewhere(
    pair: tuple[FoldedVae, FoldedVae], size: tuple[int, int]
) -> None:
    whole, tiles = pair
    latents = randn(1, whole.channels, size[0] // CELL, size[1] // CELL)
    signal = randn(1, 3, *size).clamp(-1, 1)
    with torch.inference_mode():
        for verb, given in (("decode", latents), ("encode", signal)):
            expected, actual = (getattr(each, verb)(given) for each in pair)
            assert actual.shape == expected.shape
            assert expected.std() > 0.01
            assert (actual - expected).abs().max() < 1e-5, verb
    assert tiles.tiles.applies(*size)


def test_two_megapixels_are_done_whole_and_more_are_not() -> None:
    tiles = Tiling()
    assert not tiles.applies(1024, 2048)
    assert not tiles.applies(1448, 1448)
    assert tiles.applies(1024, 2064)
    assert tiles.applies(2048, 2048)
    assert vae.ATTENDS_WHOLE == 128 * 256


@pytest.mark.parametrize("cells", [1, 11, 12, 13, 24, 25, 97])
def test_the_tiles_of_a_side_follow_each_other_and_are_small_enough(cells: int) -> None:
    spans = list(SMALL.spans(cells))
    assert [edge for span in spans for edge in range(*span)] == list(range(cells))
    assert all(0 < end - begin <= SMALL.side // CELL for begin, end in spans)


@pytest.mark.parametrize("build", [build_vae, real_layout])
def test_nothing_further_away_than_the_reach_is_seen(build: Callable[[], AutoencoderKLQwenImage]) -> None:
    """The margin of a tile follows from it; measured by the gradient of one pixel in the middle."""
    decoder = FoldedVae(build()).decoder
    layers = (*decoder.up_blocks[1:], decoder.norm_out, decoder.nonlinearity, decoder.conv_out)
    side, pixels = 48, 4
    coarse = randn(1, decoder.up_blocks[1].resnets[0].conv1.in_channels, side, side).requires_grad_()
    values = nn.Sequential(*layers)(coarse)
    middle = side * pixels // 2
    values[0, :, middle, middle].sum().backward()
    seen = coarse.grad.abs().sum(dim=(0, 1, 2)).nonzero().flatten()
    furthest = max(middle // pixels - int(seen.min()), int(seen.max()) - middle // pixels) * pixels
    counted = vae.reach(layers, pixels)
    assert counted - 2 * pixels <= furthest <= counted + pixels


def test_attention_in_parts_is_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    attention = FoldedVae(build_vae()).decoder.mid_block.attentions[0]
    cells = randn(1, attention.proj.in_channels, 12, 20)
    with torch.inference_mode():
        expected = attention(cells)
        monkeypatch.setattr(vae, "ATTENDS_WHOLE", 100)
        monkeypatch.setattr(vae, "SCORES", 7 * 240)
        assert torch.allclose(attention(cells), expected, atol=1e-6)


class HeldBytes(TorchDispatchMode):
    """The most bytes that tensors held at once, and the largest of them; weights and inputs do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self.largest = self._held = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        given = {value.untyped_storage()._cdata for value in tree_leaves(args) if isinstance(value, torch.Tensor)}
        for value in tree_leaves(result):
            if not isinstance(value, torch.Tensor):
                continue
            storage = value.untyped_storage()
            name, size = storage._cdata, storage.nbytes()
            if name in self._sizes or name in given:
                continue
            self._sizes[name] = size
            self._held += size
            self.peak, self.largest = max(self.peak, self._held), max(self.largest, size)
            weakref.finalize(storage, self._forget, name)
        return result

    def _forget(self, name: int) -> None:
        self._held -= self._sizes.pop(name)


def held(verb: Callable[[torch.Tensor], torch.Tensor], given: torch.Tensor) -> HeldBytes:
    with torch.no_grad(), HeldBytes() as counted:
        verb(given)
    return counted


def test_a_large_image_holds_little_more_than_a_tile(pair: tuple[FoldedVae, FoldedVae]) -> None:
    whole, tiles = pair
    small = held(whole.decode, randn(1, whole.channels, 24, 24))
    large = held(tiles.decode, randn(1, whole.channels, 48, 48))
    assert large.largest <= small.largest
    assert large.peak < held(whole.decode, randn(1, whole.channels, 48, 48)).peak / 2


@pytest.mark.parametrize(
    ("height", "width", "gigabytes"),
    [(1024, 1024, 1.6), (1024, 2048, 3.2), (1536, 1536, 1.1), (2048, 2048, 1.9), (1024, 4096, 1.9)],
)
def test_the_large_autoencoder_holds_what_the_plan_counts(
    height: int, width: int, gigabytes: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without memory: on the meta device, where torch has no kernel that keeps no scores, so that one is put there."""
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda query, *_: torch.empty_like(query))
    with torch.device("meta"):
        full = FoldedVae(AutoencoderKLQwenImage().to(torch.bfloat16))
        decoded = held(full.decode, torch.empty(1, full.channels, height // CELL, width // CELL))
        encoded = held(full.encode, torch.empty(1, 3, height, width))
    assert round(decoded.peak / 1e9, 1) == gigabytes
    assert encoded.peak <= decoded.peak <= memory_plan.AUTOENCODER_BYTES < memory_plan.ROOM_BYTES


def test_a_plain_attention_kernel_holds_no_more_scores_than_for_a_megapixel() -> None:
    with torch.device("meta"):
        full = FoldedVae(AutoencoderKLQwenImage().to(torch.bfloat16))
        counted = held(full.decode, torch.empty(1, full.channels, 256, 256))
    assert counted.largest == 4 * vae.SCORES == 4 * (1024 // CELL) ** 4
