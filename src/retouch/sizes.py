"""From what a caller writes about size to the canvas the model works at and the size that is delivered.

One algorithm for every protocol: `parse` reads the words, `resolve` decides for one model. Distances between
shapes and between areas are ratios (differences of logarithms), so that portrait and landscape are treated
alike. Pure arithmetic: no pixels, no HTTP.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

from retouch.edit import Notice, SizeRequest
from retouch.errors import InvalidImage, InvalidRequest, OutOfRange

K: Final = 1024
MEGAPIXEL: Final = K * K
"""One megapixel as the vendors of these models count it."""

NAMED_SIZES: Final = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
    "portrait_3_4": (768, 1024),
    "portrait_9_16": (576, 1024),
}
"""fal's names; the last two are how some resellers spell the portraits."""

_ABSENT: Final = frozenset(("", "auto", "null", "none", "undefined"))
_LIKE_INPUT: Final = frozenset(("match_input_image", "match_input", "input"))
_SMALLEST_SIDE_TOKEN: Final = 64  # a bare number from here on is a side in pixels, below it megapixels
_TIE: Final = 1e-9
_NOTICEABLE: Final = 1.1  # ratio of areas; less is what rounding to the grid makes

_EXACT: Final = re.compile(r"([0-9]{1,6})\s*[x×*]\s*([0-9]{1,6})")
_RATIO: Final = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)\s*[:/]\s*([0-9]{1,6}(?:\.[0-9]{1,6})?)")
_SCALE: Final = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)\s*(k|mp|)")


@dataclass(frozen=True, slots=True)
class SizeProfile:
    """What sizes a model can work at. Areas are in pixels.

    grid: exact sizes are rounded up to this multiple for the canvas. derived_grid: sizes we choose are
    rounded to this one; a multiple of grid. tiers: areas of the scale steps, rising. default_area: when
    the caller named none. min_area, max_area: of the canvas; rounding to the grid may end just below min_area.
    max_output_area, at least max_area: of a delivered exact size; the image is resized to it. max_ratio:
    the longer side over the shorter. max_side: of canvas and output.
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


@dataclass(frozen=True, slots=True)
class Sizes:
    """The decision: canvas and output as (width, height) in pixels, and what was not taken literally."""

    canvas: tuple[int, int]
    output: tuple[int, int]
    notices: tuple[Notice, ...] = ()


def parse(  # noqa: PLR0917 - six words a caller may say, all optional
    size: str | None = None,
    aspect_ratio: str | None = None,
    resolution: str | None = None,
    width: int | None = None,
    height: int | None = None,
    reference_image: int | None = None,
) -> SizeRequest:
    """What a caller's words on size ask for; "", auto, null and none count as absent.

    `size` wins: WxH or a name in NAMED_SIZES settles everything, W:H replaces `aspect_ratio`, a scale (1K,
    0.25, 512) replaces `resolution`. Next comes `width` with `height`, then the other two together. What
    loses is not looked at; reporting that is the caller's part. Raises InvalidRequest naming the field.
    """
    if reference_image is not None and reference_image < 0:
        raise OutOfRange("reference_image", reference_image, minimum=0)
    size, aspect_ratio, resolution = _clean(size), _clean(aspect_ratio), _clean(resolution)
    exact = _exact(size, width, height)
    if exact is not None:
        words = size or f"{width}x{height}"
        return SizeRequest(width=exact[0], height=exact[1], reference_image=reference_image, words=words)
    if size and _RATIO.fullmatch(size):
        aspect_ratio, ratio_field = size, "size"
    else:
        ratio_field = "aspect_ratio"
    if size and _SCALE.fullmatch(size):
        resolution, scale_field = size, "size"
    else:
        scale_field = "resolution"
    if size and size not in (aspect_ratio, resolution) and size not in _LIKE_INPUT:
        names = ", ".join(NAMED_SIZES)
        raise InvalidRequest(
            f"The size '{size[:40]}' is not understood; write 1024x768, 16:9, 1K or one of {names}.", field="size"
        )
    understood = [word for word in (aspect_ratio, resolution) if word]
    return SizeRequest(
        aspect_ratio=_ratio(aspect_ratio, ratio_field),
        pixels=_area(resolution, scale_field),
        reference_image=reference_image,
        words=" ".join(understood) or "auto",
    )


def resolve(
    request: SizeRequest, profile: SizeProfile, reference: tuple[int, int] | None, *, strict: bool = False
) -> Sizes:
    """Decide canvas and output for one model.

    reference: (width, height) of the upright input whose shape is followed when the request names none;
    None is a square. strict: raise InvalidRequest where the nearest possible would be taken instead.
    The canvas is on the model's grid, within max_area and max_side.
    """
    if request.width is not None and request.height is not None:
        return _resolve_exact(request.width, request.height, profile, strict=strict)
    if request.like_reference and reference is not None:
        return _resolve_exact(*reference, profile, strict=False)
    notices: list[Notice] = []
    ratio = request.aspect_ratio or (reference[0] / reference[1] if reference else 1.0)
    shape = _nearest_shape(ratio, profile)
    if not _same_shape(shape, ratio):
        if strict and request.aspect_ratio:
            raise _refused("aspect_ratio", request.words, profile)
        whose = "The shape" if request.aspect_ratio else "The input's shape"
        detail = f"{whose} {ratio:.4g}:1 is not one this model makes; {shape:.4g}:1 was used."
        notices.append(Notice("aspect_ratio", "clamped", detail))
    area, pixels = profile.default_area, request.pixels
    if pixels is not None:  # the nearest tier; of two as near the smaller
        area = min(profile.tiers, key=lambda tier: (round(abs(math.log(pixels / tier)) / _TIE), tier))
    if pixels not in (None, area):
        if strict:
            raise _refused("resolution", request.words, profile)
        detail = f"{pixels} pixels is not a scale of this model; the nearest, {area}, was used."
        notices.append(Notice("resolution", "converted", detail))
    canvas = _dimensions(area, shape, profile, profile.max_area)
    if reference is not None and pixels is None and _area_of(reference) > _NOTICEABLE * _area_of(canvas):
        detail = (
            f"The image has {reference[0]}x{reference[1]} pixels and the answer {canvas[0]}x{canvas[1]}, the size this "
            "model works at."
        )
        notices.append(Notice("size", "converted", detail))
    return Sizes(canvas, canvas, tuple(notices))


def check_mask(mask: tuple[int, int], first: tuple[int, int], *, field: str) -> None:
    """Raise InvalidImage unless a mask is as large as the first image; both as (width, height), upright."""
    if mask != first:
        raise InvalidImage(
            f"The mask has {mask[0]} x {mask[1]} pixels but the first image has {first[0]} x {first[1]}; "
            "they must be equal.",
            field=field,
        )


def _resolve_exact(width: int, height: int, profile: SizeProfile, *, strict: bool) -> Sizes:
    """An exact size that the output limits allow is delivered exactly, whatever the canvas has to be."""
    ratio, area = width / height, width * height
    shape = _nearest_shape(ratio, profile)
    if _same_shape(shape, ratio) and area <= profile.max_output_area and max(width, height) <= profile.max_side:
        if profile.min_area <= area <= profile.max_area:
            canvas = _fit(_round_up(width, profile.grid), _round_up(height, profile.grid), profile.grid, profile)
        else:
            canvas = _dimensions(_canvas_area(area, profile), shape, profile, profile.max_area)
        return Sizes(canvas, (width, height), _if_enlarged(canvas, (width, height)))
    if strict:
        raise _refused("size", f"{width}x{height}", profile)
    output_area = min(max(area, profile.min_area), profile.max_output_area)
    output = _dimensions(output_area, shape, profile, profile.max_output_area)
    canvas = _dimensions(_canvas_area(output_area, profile), shape, profile, profile.max_area)
    detail = f"{width}x{height} is outside what this model makes; the nearest, {output[0]}x{output[1]}, was used."
    return Sizes(canvas, output, (Notice("size", "clamped", detail), *_if_enlarged(canvas, output)))


def _if_enlarged(canvas: tuple[int, int], output: tuple[int, int]) -> tuple[Notice, ...]:
    if _area_of(output) <= _NOTICEABLE * _area_of(canvas):
        return ()
    detail = (
        f"{output[0]}x{output[1]} is larger than this model works at: the image was made at {canvas[0]}x{canvas[1]} "
        "and enlarged."
    )
    return (Notice("size", "converted", detail),)


def _area_of(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _canvas_area(area: int, profile: SizeProfile) -> int:
    return min(max(area, profile.min_area), profile.max_area)


def _dimensions(area: int, ratio: float, profile: SizeProfile, max_area: int) -> tuple[int, int]:
    """(width, height) of about `area` and `ratio` on the derived grid.

    At 1024² and grid 32 this is the rule of diffusers' `calculate_dimensions`.
    """
    grid = profile.derived_grid
    width = math.sqrt(area * ratio)
    return _fit(_round_half_up(width, grid), _round_half_up(width / ratio, grid), grid, profile, max_area)


def _fit(width: int, height: int, grid: int, profile: SizeProfile, max_area: int | None = None) -> tuple[int, int]:
    """Take grid steps off the longer side until the area is allowed."""
    longest = profile.max_side // grid * grid
    width, height = min(width, longest), min(height, longest)
    while width * height > (profile.max_area if max_area is None else max_area):
        if width >= height:
            width -= grid
        else:
            height -= grid
    return width, height


def _nearest_shape(ratio: float, profile: SizeProfile) -> float:
    return min(max(ratio, 1 / profile.max_ratio), profile.max_ratio)


def _same_shape(shape: float, ratio: float) -> bool:
    return abs(math.log(shape / ratio)) <= _TIE


def _round_half_up(side: float, grid: int) -> int:
    return max(grid, math.floor(side / grid + 0.5) * grid)


def _round_up(side: int, grid: int) -> int:
    return -(-side // grid) * grid


def _clean(word: str | None) -> str | None:
    word = (word or "").strip().lower()
    return None if word in _ABSENT else word


def _exact(size: str | None, width: int | None, height: int | None) -> tuple[int, int] | None:
    """The exact size that is asked for, if one is; the sides count where there is no `size`."""
    if size in NAMED_SIZES:
        return NAMED_SIZES[size]
    if size:
        match = _EXACT.fullmatch(size)
        if match is not None and not (int(match[1]) and int(match[2])):
            raise InvalidRequest(f"The size '{size}' has a side of zero pixels.", field="size")
        return None if match is None else (int(match[1]), int(match[2]))
    if width is None and height is None:
        return None
    for name, side in (("width", width), ("height", height)):
        if side is None:
            raise InvalidRequest(f"The field '{name}' is missing: 'width' and 'height' go together.", field=name)
        if side < 1:
            raise OutOfRange(name, side, minimum=1)
    assert width is not None
    assert height is not None
    return width, height


def _ratio(word: str | None, field: str) -> float | None:
    if word is None or word in _LIKE_INPUT:
        return None
    match = _RATIO.fullmatch(word)
    if match is None or not float(match[1]) or not float(match[2]):
        raise InvalidRequest(
            f"The aspect ratio '{word[:40]}' is not understood; write it as 16:9, or match_input_image.", field=field
        )
    return float(match[1]) / float(match[2])


def _area(word: str | None, field: str) -> int | None:
    if word is None:
        return None
    match = _SCALE.fullmatch(word)
    number = float(match[1]) if match else 0.0
    if match is None or number == 0:
        raise InvalidRequest(
            f"The resolution '{word[:40]}' is not understood; write 1K, megapixels (0.25) or a side (512).",
            field=field,
        )
    if match[2] == "k":
        pixels = (K * number) ** 2
    elif match[2] == "mp" or number < _SMALLEST_SIDE_TOKEN:
        pixels = number * MEGAPIXEL
    else:
        pixels = number**2
    return max(1, round(pixels))


def _refused(field: str, words: str, profile: SizeProfile) -> InvalidRequest:
    return InvalidRequest(
        f"The {field.replace('_', ' ')} '{words[:40]}' cannot be given exactly by this model: at most "
        f"{profile.max_output_area} pixels, sides up to {profile.max_side} and shapes up to "
        f"{profile.max_ratio:g}:1 are possible.",
        field=field,
    )
