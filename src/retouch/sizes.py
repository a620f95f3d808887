"""From what a caller said about size to the canvas the model works at and the size that is delivered.

One algorithm for every protocol. Pure arithmetic: no pixels, no HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass

from retouch.edit import Notice


@dataclass(frozen=True, slots=True)
class SizeProfile:
    """What sizes a model can work at. Areas are in pixels.

    grid: exact sizes are rounded up to this multiple for the canvas. derived_grid: sizes we choose are
    rounded to this one. tiers: areas of the scale steps, rising. default_area: when nothing was said.
    min_area, max_area: of the canvas. max_output_area: of a delivered exact size, which may be larger
    than any canvas; the picture is then resized. max_ratio: the longer side over the shorter.
    ratios: width / height of the only shapes the model knows, or None for any shape.
    """

    tiers: tuple[int, ...]
    default_area: int
    min_area: int
    max_area: int
    max_output_area: int
    grid: int = 16
    derived_grid: int = 32
    max_ratio: float = 4.0
    max_side: int = 4096
    ratios: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Sizes:
    """The decision: canvas and output as (width, height) in pixels, and what was not taken literally."""

    canvas: tuple[int, int]
    output: tuple[int, int]
    notices: tuple[Notice, ...] = ()
