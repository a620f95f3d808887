"""Image files to pixels: limits first, then upright, first frame, sRGB, on white.

`probe` reads headers only and is cheap enough for every upload; `decode` and `decode_mask` do the work.
Nothing here trusts a file: its size is known before anything of that size is allocated.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageOps

from retouch.errors import ImageTooLarge, InvalidImage, UnsupportedImageFormat
from retouch.images.colour import flat_rgb, grey_of
from retouch.images.formats import READABLE_FORMATS, declared_size, describe, ended_jpeg, plain_png, sniff
from retouch.images.pixels import Mask, Pixels, array_of

MAX_PIXELS: Final = 100_000_000
"""Largest input: above the biggest common cameras (61 and 100 megapixels), and 300 MB once decoded."""

_ORIENTATION: Final = 0x0112  # EXIF tag
_SIDEWAYS: Final = frozenset((5, 6, 7, 8))

_HALF: Final = 128  # of an alpha value
_NEARLY: Final = 16  # how far from black, white or grey a value of a mask may be
_MOSTLY: Final = 0.9  # share of a drawn mask that is black or white; the rest are soft edges

_SCALES: Final = ((8, 2.0), (4, 1.75), (2, 1.5))
"""By what a JPEG may be decoded smaller, and how much larger than needed it must still be. At the needed size the
result is 47 to 54 dB from what the whole image gives, see benchmarks/LOG.md."""

# Pillow's own guard is a warning up to twice its limit and an error above. Both become our ImageTooLarge;
# the limit is ours so that a legal image never meets the warning.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)

# Pillow tells of damaged EXIF and TIFF tags by warnings. An image that decodes is fine, one that does not
# is refused below; a caller's file must not write into the server's log either way.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

# What Pillow's readers raise on hostile bytes. They index, unpack and divide by what the file says, so the
# list is wide on purpose (tests/unit/test_images.py feeds them damaged files); a bug of ours in
# this module would be told apart by the tests, which use good files.
_BROKEN_FILE: Final = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    ArithmeticError,
    TypeError,
    AttributeError,
    AssertionError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What a file says it is. width, height: in pixels, as seen upright (orientation applied)."""

    format: str
    media_type: str
    width: int
    height: int


def probe(data: bytes, *, field: str = "images[0]", max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Read the header of `data` without decoding the image.

    Raises InvalidImage (empty or broken header), UnsupportedImageFormat or ImageTooLarge, all naming `field`.
    """
    with _opened(data, field, max_pixels) as (name, image):
        width, height = image.size
        if name != "tiff" and _orientation(image) in _SIDEWAYS:  # TIFF's reader has turned its size already
            width, height = height, width
        return ImageHeader(name, f"image/{name}", width, height)


def decode(
    data: bytes,
    *,
    field: str = "images[0]",
    max_pixels: int = MAX_PIXELS,
    remarks: list[str] | None = None,
    at_least: tuple[float, float] | None = None,
) -> Pixels:
    """The image as (height, width, 3) uint8 sRGB, upright, its first frame, transparency laid on white.

    at_least: (width, height), upright, that will be needed; a JPEG much larger than that comes at a half, a quarter or
    an eighth of its size, in its own shape. None: at its own size. The array is fresh, writable and C-contiguous. A
    sentence on what was not taken as it stands is added to `remarks`. Raises as `probe` does, and InvalidImage for a
    file that ends too early. Thread-safe.
    """
    with _opened(data, field, max_pixels, whole=True) as (name, image):
        if name == "jpeg" and at_least is not None:
            _shrink(image, at_least)
        flat, was_transparent = flat_rgb(_upright(image))
        if was_transparent and remarks is not None:
            remarks.append("Its transparent parts were laid on white: the model sees no transparency.")
        return array_of(flat)


def decode_mask(
    data: bytes, *, field: str = "mask", max_pixels: int = MAX_PIXELS, remarks: list[str] | None = None
) -> Mask:
    """Where to edit, as (height, width) uint8: 255 = edit here, 0 = keep, between = blend.

    Transparent means edit, opaque means keep. By brightness, where white means edit, a file is read without
    transparency (no alpha channel, or one that is opaque everywhere and so says nothing), and one drawn in black
    and white whose alpha channel is nowhere more transparent than opaque. Where a file can be read both ways, or
    marks nothing, a sentence is added to `remarks`. Raises as `decode`.
    """
    with _opened(data, field, max_pixels, whole=True) as (_, image):
        upright = _upright(image)
        mask, remark = _mask_of(upright)
    if mask.max() == 0:
        remark = "It marks nothing, so nothing of the image was edited. Transparent means edit; so does white without"
        remark += " transparency."
    if remark and remarks is not None:
        remarks.append(remark)
    return mask


def _mask_of(image: Image.Image) -> tuple[Mask, str]:
    """The mask, and what to say of it if it could be read in another way."""
    if not image.has_transparency_data:
        return np.array(grey_of(image)), ""
    rgba = image.convert("RGBA")
    alpha = np.array(rgba.getchannel("A"))
    least = int(alpha.min())
    if least == 255:
        return np.array(grey_of(image)), ""
    if _drawn_in_black_and_white(np.asarray(rgba), alpha):
        if least >= _HALF:
            return np.array(grey_of(image)), (
                "It is drawn in black and white and nowhere more transparent than opaque: white was taken as "
                "'edit here', its slight transparency was not used."
            )
        return 255 - alpha, (
            "It has transparent parts and is drawn in black and white: transparent was taken as 'edit here', "
            "black and white were not used."
        )
    if least >= _HALF:
        share = 100 * (255 - least) / 255
        return 255 - alpha, f"It is at most {share:.3g} % transparent, so the edit shows through at most so much."
    return 255 - alpha, ""


def _drawn_in_black_and_white(rgba: Pixels, alpha: Mask) -> bool:
    """Whether the opaque part is grey throughout, holds both black and white, and little between."""
    opaque = rgba[alpha >= _HALF][:, :3]
    if opaque.size == 0 or int(np.ptp(opaque, axis=1).max()) > _NEARLY:
        return False
    black, white = opaque[:, 0] <= _NEARLY, opaque[:, 0] >= 255 - _NEARLY
    return bool(black.any() and white.any() and (black.mean() + white.mean()) >= _MOSTLY)


@contextmanager
def _opened(data: bytes, field: str, max_pixels: int, *, whole: bool = False) -> Iterator[tuple[str, Image.Image]]:
    """Open `data` after checking format and size; whatever breaks inside the block is told as InvalidImage.

    whole: more than the header will be read.
    """
    name = _readable_format(data, field)
    _check_area(declared_size(name, data), field, max_pixels)
    if name == "png":
        data = plain_png(data)
    try:
        if whole and name == "jpeg":
            _check_area(_size_of(data, name), field, max_pixels)
            data = ended_jpeg(data)
        with Image.open(io.BytesIO(data), formats=[name.upper()]) as image:
            _check_area(image.size, field, max_pixels)
            yield name, image
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise _too_large(field, max_pixels) from None
    except _BROKEN_FILE as error:
        raise InvalidImage(
            f"The image in '{field}' is damaged or cut off; it begins like {name} but cannot be read.", field=field
        ) from error


def _size_of(data: bytes, name: str) -> tuple[int, int]:
    with Image.open(io.BytesIO(data), formats=[name.upper()]) as image:
        return image.size


def _shrink(image: Image.Image, at_least: tuple[float, float]) -> None:
    """Let libjpeg leave out the finest details where a resize would drop them: a fraction of the work.

    Only by what divides both sides: then the smaller image covers exactly what the file shows.
    """
    width, height = image.size
    wide, high = at_least[::-1] if _orientation(image) in _SIDEWAYS else at_least
    for scale, spare in _SCALES:
        fits = width >= scale * spare * wide and height >= scale * spare * high
        if fits and width % scale == 0 and height % scale == 0:
            image.draft(None, (width // scale, height // scale))
            return


def _readable_format(data: bytes, field: str) -> str:
    if not data:
        raise InvalidImage(f"The image in '{field}' is empty (0 bytes).", field=field)
    name = sniff(data)
    if name is None:
        readable = ", ".join(word.upper() for word in READABLE_FORMATS)
        raise UnsupportedImageFormat(
            f"The image in '{field}' is {describe(data)}; send one of {readable}.",
            field=field,
            supported_formats=READABLE_FORMATS,
        )
    return name


def _check_area(size: tuple[int, int] | None, field: str, max_pixels: int) -> None:
    if size is not None and size[0] * size[1] > max_pixels:
        raise _too_large(field, max_pixels, size)


def _too_large(field: str, max_pixels: int, size: tuple[int, int] | None = None) -> ImageTooLarge:
    said = f" is {size[0]} × {size[1]} pixels" if size else " has too many pixels"
    return ImageTooLarge(
        f"The image in '{field}'{said}; at most {max_pixels} pixels are allowed.", field=field, max_pixels=max_pixels
    )


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; a broken EXIF block is not worth refusing a good image for.

    Asked through the parent class, because PNG's own method decodes the whole image to look behind it.
    """
    try:
        value = Image.Image.getexif(image).get(_ORIENTATION, 1)
    except _BROKEN_FILE:
        return 1
    return value if isinstance(value, int) else 1


def _upright(image: Image.Image) -> Image.Image:
    """The first frame, decoded and turned. PNG and TIFF may tell their orientation only once loaded."""
    image.load()
    if _orientation(image) in range(2, 9):
        return ImageOps.exif_transpose(image)
    return image
