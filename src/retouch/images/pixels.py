"""The two arrays that stand for an image, changing their size, and laying one over another. No file formats here."""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""An image: (height, width, 3) uint8, sRGB, C-contiguous."""

Mask: TypeAlias = npt.NDArray[np.uint8]
"""Where to edit: (height, width) uint8, 255 = edit here, 0 = keep, between = blend."""


_STRIP_BYTES: Final = 1 << 20


def array_of(image: Image.Image) -> npt.NDArray[np.uint8]:
    """`np.array(image)` of an image in mode RGB or L, in strips: other threads run in between.

    Pillow hands pixels over while it holds the interpreter's lock, tens of milliseconds for a whole photo, and a thread
    that drives a device needs that lock for each of its many short calls.
    """
    width, height = image.size
    bands = len(image.getbands())
    pixels = np.empty((height, width, bands) if bands > 1 else (height, width), np.uint8)
    rows = max(1, _STRIP_BYTES // (width * bands))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, width, bottom)))
    return pixels


def resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Lanczos to `size` = (width, height); equal to Pillow's `Image.resize(size, LANCZOS)` bit by bit.

    pixels: (height, width, 3) or (height, width). Returns `pixels` itself when the size is right already.
    """
    if (pixels.shape[1], pixels.shape[0]) == size:
        return pixels
    return array_of(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def composite(edited: Pixels, source: Pixels, mask: Mask) -> Pixels:
    """`edited` where the mask says edit, `source` elsewhere, between where the mask is between.

    source and mask: brought to the size of `edited` by `resize`; where they have it already, what the mask protects is
    the source's own, pixel for pixel.
    """
    size = (edited.shape[1], edited.shape[0])
    share = resize(mask, size)[..., np.newaxis].astype(np.uint16)
    blended = (edited * share + resize(source, size) * (255 - share) + 127) // 255
    return blended.astype(np.uint8)


def cover(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """The middle of an image in the shape of `size`, which is (width, height), as large as it fits, resized to it."""
    height, width = pixels.shape[:2]
    shape = size[0] / size[1]
    inner = (min(width, max(1, round(height * shape))), min(height, max(1, round(width / shape))))
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    return resize(np.ascontiguousarray(pixels[top : top + inner[1], left : left + inner[0]]), size)
