"""The edits: each a name and the exact function of the pixels that is its right answer.

Images are (batch, 3, height, width) in 0..1, sides multiples of 16. Nothing here knows by which sentences an edit is
requested; that is `instructions`. EDITS change the one image they get. Two stand apart: `square` has a colour and a
place, and `match_colors` looks at a second image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Edit = Callable[[Tensor], Tensor]

BORDER_PX = 16
TONES = 4
TONE_BLUR_PX = 1.5
TOKEN_PX = 16
SQUARE_TOKENS = 3
COLOURS: dict[str, tuple[float, float, float]] = {
    "white": (1.0, 1.0, 1.0),
    "black": (0.0, 0.0, 0.0),
    "red": (0.90, 0.10, 0.10),
    "green": (0.10, 0.70, 0.20),
    "blue": (0.12, 0.25, 0.90),
    "yellow": (0.98, 0.88, 0.12),
    "orange": (0.98, 0.55, 0.10),
    "purple": (0.55, 0.18, 0.75),
    "pink": (0.98, 0.50, 0.72),
}
TINT_COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "pink")


# Tokens of 16 px between the square and the edge, and across the square; None is the middle.
PLACES: dict[str, tuple[int | None, int | None]] = {
    "center": (None, None),
    "top_left": (1, 1),
    "top_right": (1, -1),
    "bottom_left": (-1, 1),
    "bottom_right": (-1, -1),
}


def luma_of(x: Tensor) -> Tensor:
    r, g, b = x.unbind(1)
    return (0.299 * r + 0.587 * g + 0.114 * b).unsqueeze(1)


def gaussian(x: Tensor, sigma_px: float) -> Tensor:
    radius = int(3 * sigma_px + 0.5)
    axis = torch.arange(-radius, radius + 1, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (axis / sigma_px) ** 2)
    kernel = (kernel / kernel.sum()).repeat(3, 1)
    x = functional.pad(x, (radius,) * 4, mode="replicate")
    x = functional.conv2d(x, kernel[:, None, None, :], groups=3)
    return functional.conv2d(x, kernel[:, None, :, None], groups=3)


def _rgb(colour: tuple[float, float, float], like: Tensor) -> Tensor:
    return torch.tensor(colour, dtype=like.dtype).view(1, 3, 1, 1)


def _per_channel(gain: tuple[float, float, float], offset: tuple[float, float, float]) -> Edit:
    return lambda x: x * _rgb(gain, x) + _rgb(offset, x)


def sharpen(x: Tensor) -> Tensor:
    """An unsharp mask wide enough to survive an autoencoder that softens the finest detail."""
    return x + 1.3 * (x - gaussian(x, 5.0))


def posterize(x: Tensor) -> Tensor:
    """Brightness in four flat tones, without the texture in them; the hue stays."""
    luma = luma_of(x)
    smooth = gaussian(luma.expand_as(x), TONE_BLUR_PX)[:, :1]
    return x + (smooth * (TONES - 1)).round() / (TONES - 1) - luma


def saturate(x: Tensor) -> Tensor:
    luma = luma_of(x)
    return luma + 1.8 * (x - luma)


def _falloff(length: int, like: Tensor) -> Tensor:
    """How much light is left along one axis: dark at both ends, in pixels, whatever the size."""
    at = torch.arange(length, dtype=like.dtype) + 0.5
    near = torch.exp(-0.5 * (at / 30) ** 2)
    return (1 - 0.62 * near) * (1 - 0.62 * near.flip(0))


def _border(colour: tuple[float, float, float]) -> Edit:
    def border(x: Tensor) -> Tensor:
        inside = x[:, :, BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX]
        framed = _rgb(colour, x).expand_as(x).clone()
        framed[:, :, BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] = inside
        return framed

    return border


def _tint(colour: tuple[float, float, float]) -> Edit:
    return lambda x: 0.6 * x + 0.4 * _rgb(colour, x)


def _inside(length: int, place: int | None) -> Tensor:
    """Which pixels along one axis the square covers. In the middle it is as wide as the grid's parity allows."""
    tokens = torch.arange(length // TOKEN_PX)
    if place is None:
        covered = (2 * tokens - (len(tokens) - 1)).abs() <= SQUARE_TOKENS
    else:
        near = tokens if place > 0 else len(tokens) - 1 - tokens
        covered = (near >= 1) & (near <= SQUARE_TOKENS)
    return covered.repeat_interleave(TOKEN_PX)


def square(x: Tensor, colour: str, place: str) -> Tensor:
    """A filled square at one of five places: 48 px, 16 px from the edges; 48 or 64 px in the middle."""
    rows, columns = PLACES[place]
    covered = _inside(x.shape[2], rows)[:, None] & _inside(x.shape[3], columns)[None, :]
    return torch.where(covered, _rgb(COLOURS[colour], x), x)


def match_colors(x: Tensor, second: Tensor) -> Tensor:
    """Image x with the mean colour of the second one."""
    return (x + second.mean((2, 3), keepdim=True) - x.mean((2, 3), keepdim=True)).clamp(0, 1)


UNCLIPPED: dict[str, Edit] = {
    "unchanged": lambda x: x,
    "grayscale": lambda x: luma_of(x).expand_as(x),
    "invert": lambda x: 1 - x,
    "brighter": lambda x: 1 - (1 - x).clamp_min(0) ** 1.7,
    "darker": lambda x: 0.5 * x,
    # An S curve with slope 1.75 in the middle; black and white stay where they are.
    "contrast": lambda x: x - 0.12 * torch.sin(2 * torch.pi * x),
    "fade": lambda x: 0.5 + 0.45 * (x - 0.5),
    "warmer": _per_channel((0.86, 0.94, 0.72), (0.14, 0.03, 0.0)),
    "cooler": _per_channel((0.72, 0.92, 0.86), (0.0, 0.04, 0.14)),
    "sepia": lambda x: luma_of(x) * _rgb((0.90, 0.80, 0.62), x) + _rgb((0.10, 0.06, 0.02), x),
    "blur": lambda x: gaussian(x, 2.2),
    "sharpen": sharpen,
    "pixelate": lambda x: functional.interpolate(functional.avg_pool2d(x, 8), scale_factor=8, mode="nearest"),
    "saturate": saturate,
    "swap_red_blue": lambda x: x.flip(1),
    "vignette": lambda x: x * _falloff(x.shape[2], x)[:, None] * _falloff(x.shape[3], x)[None, :],
    "posterize": posterize,
    "flip_horizontal": lambda x: x.flip(3),
    "flip_vertical": lambda x: x.flip(2),
    "rotate_180": lambda x: x.flip(2, 3),
    **{f"border_{name}": _border(rgb) for name, rgb in COLOURS.items()},
    **{f"tint_{name}": _tint(COLOURS[name]) for name in TINT_COLOURS},
}
"""The edits before what is darker than black or lighter than white is cut off. The networks aim at these:
an edit that is linear stays so, and the image is clipped where it is drawn."""


EDITS: dict[str, Edit] = {name: lambda x, edit=edit: edit(x).clamp(0, 1) for name, edit in UNCLIPPED.items()}
NAMES = tuple(EDITS)
UNCHANGED = NAMES.index("unchanged")


def unclipped(x: Tensor, labels: Tensor) -> Tensor:
    """Image i of the batch under edit number labels[i], before clipping."""
    answers = torch.empty_like(x)
    for label in labels.unique().tolist():
        chosen = labels == label
        answers[chosen] = UNCLIPPED[NAMES[label]](x[chosen])
    return answers


def apply(x: Tensor, labels: Tensor) -> Tensor:
    """The true answers: image i of the batch under edit number labels[i]."""
    return unclipped(x, labels).clamp(0, 1)
