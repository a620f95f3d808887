"""Which tokens of a canvas a mask lets change, as a plain value of the edit. Knows no image and no tensors."""

from __future__ import annotations

import numpy as np

from retouch.images import Mask

MARGIN = 2
"""Tokens around the masked ones that are denoised as well, so that the seam has something on both sides."""


def editable_tokens(mask: Mask, rows: int, columns: int, *, margin: int = MARGIN) -> bytes | None:
    """One byte for each token, row by row: 1 where the mask, or its margin, lets it change.

    mask: uint8, 0 = keep, stretched over the canvas whatever its size. None when every token may change, or none may.
    """
    edges = [np.arange(count) * length // count for count, length in zip((rows, columns), mask.shape, strict=True)]
    grid = np.maximum.reduceat(np.maximum.reduceat(mask, edges[0], axis=0), edges[1], axis=1) > 0
    for _ in range(margin):
        padded = np.pad(grid, 1)
        grid = np.logical_or.reduce(
            [padded[down : down + rows, right : right + columns] for down in range(3) for right in range(3)]
        )
    if grid.all() or not grid.any():
        return None
    return grid.astype(np.uint8).tobytes()
