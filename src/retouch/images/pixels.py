"""The two arrays that stand for a picture, and changing their size. No file formats here."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""A picture: (height, width, 3) uint8, sRGB, C-contiguous."""

Mask: TypeAlias = npt.NDArray[np.uint8]
"""Where to edit: (height, width) uint8, 255 = edit here, 0 = keep, between = blend."""


def resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Lanczos to `size` = (width, height); equal to Pillow's `Image.resize(size, LANCZOS)` bit by bit.

    pixels: (height, width, 3) or (height, width). Returns `pixels` itself when the size is right already.
    """
    if (pixels.shape[1], pixels.shape[0]) == size:
        return pixels
    return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
