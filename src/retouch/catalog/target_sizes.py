"""What size a hosted model is asked for, and what is left to do to what comes: `sizes.py` for a provider's model.

The decision of what the caller gets is `sizes.resolve`'s, so that it is the same wherever an edit runs. Here it is
fitted to what the provider can be told: a size, one of a few words, or nothing. Pure arithmetic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from retouch.catalog.profiles import SizeRule, SizeWay
from retouch.edit import Notice, SizeRequest
from retouch.errors import InvalidRequest
from retouch.sizes import resolve

SAME_SHAPE: Final = 0.04
"""How far, as a difference of logarithms, a shape may be off and still count as the one asked for: rounding both sides
to 32 pixels at a megapixel makes up to 3.8 %."""


@dataclass(frozen=True, slots=True)
class TargetSize:
    """sent: width and height, or the provider's word; None when it is told nothing.

    expected: what will come, as far as can be known. output: what the caller gets whatever comes; None for what comes.
    """

    sent: tuple[int, int] | str | None
    expected: tuple[int, int] | None
    output: tuple[int, int] | None
    notices: tuple[Notice, ...] = ()

    @property
    def shape(self) -> float | None:
        """Width over height of what is delivered, when it is known."""
        known = self.output or self.expected
        return None if known is None else known[0] / known[1]


def choose_size(
    request: SizeRequest,
    rule: SizeRule,
    reference: tuple[int, int] | None,
    last: tuple[int, int] | None,
    *,
    strict: bool,
    crop: bool,
) -> TargetSize:
    """Decide for one target.

    reference: of the upright input whose shape is followed, and last: of the last input, whose shape a provider follows
    that cannot be told; both None while unknown. crop: a shape that it has no word for is cut out of what comes.
    Raises InvalidRequest where a strict request cannot be had exactly.
    """
    if not _decides(request) and reference is None:
        notices: tuple[Notice, ...] = ()
        if request.pixels is not None:
            detail = "The shape of the input is not known before it is fetched, so no scale could be asked for."
            if strict:
                raise InvalidRequest(f"The resolution '{request.words}' cannot be given. {detail}", field="resolution")
            notices = (Notice("resolution", "ignored", detail),)
        return TargetSize(rule.like_input, None, None, notices)
    if rule.way in (SizeWay.EXACT, SizeWay.ROUNDED):
        return _as_measures(request, rule, reference, strict=strict)
    return _cut_to_measure(request, rule, reference, last, strict=strict, crop=crop)


def shapes_differ(first: float, second: float) -> bool:
    """Whether more than rounding lies between two shapes, as width over height."""
    return abs(math.log(first / second)) > SAME_SHAPE


def _decides(request: SizeRequest) -> bool:
    """Whether the request says the whole shape itself."""
    return request.width is not None or request.aspect_ratio is not None


def _as_measures(
    request: SizeRequest, rule: SizeRule, reference: tuple[int, int] | None, *, strict: bool
) -> TargetSize:
    """A provider that takes a width and a height; it is given multiples of its grid, within its sides."""
    sizes = resolve(request, rule.limits, reference, strict=strict)
    canvas = sizes.canvas
    if min(canvas) < rule.min_side:  # a larger one in the shape of the output, whose shorter side is long enough
        width, height = sizes.output
        longer = max(width, height) / min(width, height) * rule.min_side
        longer = min(rule.limits.max_side, math.floor(longer / rule.limits.grid + 0.5) * rule.limits.grid)
        canvas = (longer, rule.min_side) if width >= height else (rule.min_side, longer)
    exact = request.width is not None or (request.like_reference and reference is not None)
    if not exact:
        return TargetSize(canvas, canvas, None, sizes.notices)
    notices = sizes.notices
    if canvas != sizes.output and not any(notice.action == "converted" for notice in notices):
        notices = (
            *notices,
            _emulated(f"It is asked for {_text_of(canvas)}, which is resized to {_text_of(sizes.output)}."),
        )
    return TargetSize(canvas, canvas, sizes.output, notices)


def _cut_to_measure(
    request: SizeRequest,
    rule: SizeRule,
    reference: tuple[int, int] | None,
    last: tuple[int, int] | None,
    *,
    strict: bool,
    crop: bool,
) -> TargetSize:
    """A provider that takes a word or nothing: the nearest it makes, and the rest is done to what comes."""
    sizes = resolve(request, rule.limits, reference, strict=strict)
    exact = request.width is not None or (request.like_reference and reference is not None)
    shape = sizes.output[0] / sizes.output[1]
    if not exact:  # as asked, not as rounded to a grid that this provider may not have
        given = request.aspect_ratio or (shape if reference is None else reference[0] / reference[1])
        shape = min(max(given, 1 / rule.limits.max_ratio), rule.limits.max_ratio)
    word, expected = _nearest(rule, shape, sizes.output)
    follows = rule.way is SizeWay.FIXED
    if follows:
        expected = None if last is None else resolve(SizeRequest(), rule.limits, last).canvas
    elif not exact and request.aspect_ratio is None and rule.like_input is not None:
        word, expected = rule.like_input, None if last is None else resolve(SizeRequest(), rule.limits, last).canvas
    notices = tuple(notice for notice in sizes.notices if _decides(request) or notice.parameter == "resolution")
    differs = expected is not None and shapes_differ(shape, expected[0] / expected[1])
    wanted_shape = request.aspect_ratio is not None or exact
    if differs and strict and wanted_shape:
        raise InvalidRequest(
            f"The size '{request.words[:40]}' cannot be given exactly by this model: what it makes is "
            f"{_text_of(expected or (0, 0))}.",
            field="size" if exact else "aspect_ratio",
        )
    if exact:
        if expected == sizes.output:
            return TargetSize(word, expected, sizes.output, notices)
        how = "cropped to its shape and resized" if differs else "resized"
        made = "an image in the shape of its input" if expected is None else f"about {_text_of(expected)}"
        detail = f"It makes {made}, which is {how} to {_text_of(sizes.output)}."
        return TargetSize(word, expected, sizes.output, (*notices, _emulated(detail)))
    if not differs or expected is None:
        return TargetSize(word, expected, None, notices)
    if request.aspect_ratio is not None and crop:
        output = _largest_within(expected, shape)
        detail = f"It makes about {_text_of(expected)}, which is cropped to {_text_of(output)}."
        return TargetSize(word, expected, output, (*notices, _emulated(detail, "aspect_ratio")))
    whose = "The shape" if request.aspect_ratio is not None else "The input's shape"
    detail = f"{whose} {shape:.4g}:1 is not one it makes; the nearest, {expected[0] / expected[1]:.4g}:1, was used."
    return TargetSize(word, expected, None, (*notices, Notice("aspect_ratio", "converted", detail)))


def _nearest(rule: SizeRule, shape: float, wanted: tuple[int, int]) -> tuple[str | None, tuple[int, int] | None]:
    """The provider's word whose shape is nearest, and among those of one shape the nearest area."""
    if not rule.choices:
        return None, None

    def distance(size: tuple[int, int]) -> tuple[float, float]:
        off_shape = abs(math.log(size[0] / size[1] / shape))
        return round(off_shape, 6), abs(math.log(size[0] * size[1] / (wanted[0] * wanted[1])))

    word = min(rule.choices, key=lambda each: distance(rule.choices[each]))
    return word, rule.choices[word]


def _largest_within(size: tuple[int, int], shape: float) -> tuple[int, int]:
    """The largest rectangle of a shape inside `size`, in whole pixels."""
    width, height = size
    return (max(1, round(height * shape)), height) if width / height > shape else (width, max(1, round(width / shape)))


def _emulated(detail: str, parameter: str = "size") -> Notice:
    return Notice(parameter, "emulated", detail)


def _text_of(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
