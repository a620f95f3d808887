"""The autoencoder on images above two megapixels: its work at full resolution in tiles, so that its memory is bounded.

Only the middle block looks at the whole image, and it works at an eighth of the resolution, where a large image is
small as well. So what is done at an eighth is done for the whole image. The rest is convolutions alone and goes tile by
tile, each with as many pixels around it as these convolutions reach. A tile's own pixels are then those of the whole
image but for rounding; there is no seam to blend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import torch
from torch import nn

CELL = 8
"""Pixels per latent cell and side."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """above: pixels of the largest image that is done whole. side: pixels of a tile at most, a multiple of CELL."""

    above: int = 2 * 1024 * 1024
    side: int = 1024

    def applies(self, height: int, width: int) -> bool:
        """Whether an image of so many pixels is done in tiles."""
        return height * width > self.above

    def spans(self, cells: int) -> Iterator[tuple[int, int]]:
        """Where the tiles of a side of so many cells begin and end, as even as possible."""
        count = -(-cells * CELL // self.side)
        return pairwise(cells * tile // count for tile in range(count + 1))


def decode(decoder: Any, cells: torch.Tensor, tiling: Tiling) -> torch.Tensor:
    """What the folded decoder makes of cells, (1, channels, height / 8, width / 8): (1, 3, height, width)."""
    first, *rest = decoder.up_blocks
    coarse = first(decoder.mid_block(decoder.conv_in(cells)))
    before = coarse.shape[-1] // cells.shape[-1]
    layers = (*rest, decoder.norm_out, decoder.nonlinearity, decoder.conv_out)
    return _in_tiles(layers, coarse, tiling, before=before, after=CELL)


def encode(encoder: Any, signal: torch.Tensor, tiling: Tiling) -> torch.Tensor:
    """What the folded encoder makes of an image, (1, 3, height, width), whose sides are multiples of CELL."""
    blocks = list(encoder.down_blocks)
    split = 1 + max(index for index, block in enumerate(blocks) if isinstance(block, nn.Sequential))  # the last halving
    cells = _in_tiles((encoder.conv_in, *blocks[:split]), signal, tiling, before=CELL, after=1)
    for layer in (*blocks[split:], encoder.mid_block, encoder.norm_out, encoder.nonlinearity, encoder.conv_out):
        cells = layer(cells)
    return cells


def _in_tiles(
    layers: Sequence[Callable[[torch.Tensor], torch.Tensor]],
    values: torch.Tensor,
    tiling: Tiling,
    *,
    before: int,
    after: int,
) -> torch.Tensor:
    """The layers' result, tile by tile. before, after: values per cell and side of what goes in and comes out."""
    halo = -(-reach(layers, CELL // before) // CELL)
    height, width = (side // before for side in values.shape[-2:])
    result: torch.Tensor | None = None
    for top, bottom in tiling.spans(height):
        for left, right in tiling.spans(width):
            # The image's own border stays one, where convolutions see zeros.
            up, down = max(0, top - halo), min(height, bottom + halo)
            west, east = max(0, left - halo), min(width, right + halo)
            tile = values[:, :, up * before : down * before, west * before : east * before]
            for layer in layers:
                tile = layer(tile)
            if result is None:
                result = tile.new_empty((*tile.shape[:2], height * after, width * after))
            own = tile[:, :, (top - up) * after : (bottom - up) * after, (left - west) * after : (right - west) * after]
            result[:, :, top * after : bottom * after, left * after : right * after] = own
    assert result is not None, "an image has pixels"
    return result


def reach(layers: Iterable[Any], pixels: int) -> int:
    """How many pixels away a value of the input can be from one of the output it takes part in, at most.

    pixels: what one value of the input stands for, a side. Counts every convolution as if they were in one row, so the
    shortcuts, which have kernels of one, add nothing.
    """
    total = 0
    for module in chain.from_iterable(layer.modules() for layer in layers):
        if isinstance(module, nn.Upsample):
            pixels //= 2
        elif isinstance(module, nn.Conv2d):
            halves = module.stride[0] == 2
            # One that halves is padded on one side only.
            total += (module.kernel_size[0] - 1 if halves else module.kernel_size[0] // 2) * pixels
            pixels *= module.stride[0]
    return total
