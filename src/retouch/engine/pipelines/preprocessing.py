"""Pixels to the networks' inputs and back: areas, resizing, ranges, 2x2 packing.

The arithmetic is that of the stock pipelines, down to the rounding, because the weights were trained with
it. Does not choose the size of the answer (`sizes.py` does) and runs no network.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image

from retouch.errors import InvalidImage
from retouch.images import Pixels

GRID = 32
"""References are resized to a multiple of this, whatever the area."""

MAX_RATIO = 64
"""The longer side of a reference over the shorter; beyond it the language model's eyes see nothing."""


def check_shape(image: Pixels, index: int) -> None:
    """Raise InvalidImage for an image too narrow to be looked at."""
    height, width = image.shape[:2]
    if max(height, width) > MAX_RATIO * min(height, width):
        raise InvalidImage(
            f"The image is {width} x {height} pixels; the longer side may be at most {MAX_RATIO} times the shorter.",
            field=f"images[{index}]",
        )


def reference_size(area: int, width: int, height: int) -> tuple[int, int]:
    """(width, height) of about `area` pixels with the shape of the original, both multiples of 32."""
    ratio = width / height
    wide = math.sqrt(area * ratio)
    return max(GRID, round(wide / GRID) * GRID), max(GRID, round(wide / ratio / GRID) * GRID)


def resized(image: Pixels, size: tuple[int, int]) -> Image.Image:
    """A copy at (width, height), Lanczos."""
    return Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)


def to_signal(image: Image.Image) -> torch.Tensor:
    """(1, 3, height, width) float32 from -1 to 1, on the CPU."""
    values = np.asarray(image, dtype=np.float32) / 255.0
    return 2.0 * torch.from_numpy(values.transpose(2, 0, 1)[None].copy()) - 1.0


def pinned(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The same numbers where a GPU can fetch them by itself; for a CPU the tensor as it is."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


def to_pixels(signal: torch.Tensor) -> Pixels:
    """The reverse of `to_signal`, uint8 (height, width, 3); values beyond the range are clipped."""
    values = (signal[0] * 0.5 + 0.5).clamp(0, 1).permute(1, 2, 0).float() * 255
    return values.round().to(torch.uint8).cpu().contiguous().numpy()


def pack(latents: torch.Tensor) -> torch.Tensor:
    """(1, channels, height, width) to tokens of 2x2 cells, (1, tokens, 4 channels)."""
    _, channels, height, width = latents.shape
    cells = latents.reshape(1, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return cells.reshape(1, (height // 2) * (width // 2), channels * 4)


def unpack(tokens: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The reverse of `pack`: rows and columns of tokens to (1, channels, 2 rows, 2 columns)."""
    channels = tokens.shape[-1] // 4
    cells = tokens.reshape(1, rows, columns, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return cells.reshape(1, channels, rows * 2, columns * 2)
