"""Picture files to pixels: limits first, then upright, first frame, sRGB, on white.

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
from retouch.images.formats import READABLE_FORMATS, declared_size, describe, sniff
from retouch.images.pixels import Mask, Pixels

MAX_PIXELS: Final = 100_000_000
"""Largest input: above the biggest common cameras (61 and 100 megapixels), and 300 MB once decoded."""

_ORIENTATION: Final = 0x0112  # EXIF tag
_SIDEWAYS: Final = frozenset((5, 6, 7, 8))

# Pillow's own guard is a warning up to twice its limit and an error above. Both become our ImageTooLarge;
# the limit is ours so that a legal picture never meets the warning.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)

# Pillow tells of damaged EXIF and TIFF tags by warnings. A picture that decodes is fine, one that does not
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
    """Read the header of `data` without decoding the picture.

    Raises InvalidImage (empty or broken header), UnsupportedImageFormat or ImageTooLarge, all naming `field`.
    """
    with _opened(data, field, max_pixels) as (name, image):
        width, height = image.size
        if name != "tiff" and _orientation(image) in _SIDEWAYS:  # TIFF's reader has turned its size already
            width, height = height, width
        return ImageHeader(name, f"image/{name}", width, height)


def decode(data: bytes, *, field: str = "images[0]", max_pixels: int = MAX_PIXELS) -> Pixels:
    """The picture as (height, width, 3) uint8 sRGB, upright, its first frame, transparency laid on white.

    The array is fresh, writable and C-contiguous. Raises as `probe` does, and InvalidImage for a file that
    ends too early. Thread-safe.
    """
    with _opened(data, field, max_pixels) as (_, image):
        return np.array(flat_rgb(_upright(image)))


def decode_mask(data: bytes, *, field: str = "mask", max_pixels: int = MAX_PIXELS) -> Mask:
    """Where to edit, as (height, width) uint8: 255 = edit here, 0 = keep, between = blend.

    Transparent means edit, opaque means keep. A file without transparency (no alpha channel, or one that
    is opaque everywhere and so says nothing) is read by brightness: white means edit. Raises as `decode`.
    """
    with _opened(data, field, max_pixels) as (_, image):
        upright = _upright(image)
        if upright.has_transparency_data:
            alpha = np.array(upright.convert("RGBA").getchannel("A"))
            if alpha.min() < 255:
                return 255 - alpha
        return np.array(grey_of(upright))


@contextmanager
def _opened(data: bytes, field: str, max_pixels: int) -> Iterator[tuple[str, Image.Image]]:
    """Open `data` after checking format and size; whatever breaks inside the block is told as InvalidImage."""
    name = _readable_format(data, field)
    _check_area(declared_size(name, data), field, max_pixels)
    try:
        with Image.open(io.BytesIO(data), formats=[name.upper()]) as image:
            _check_area(image.size, field, max_pixels)
            yield name, image
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise _too_large(field, max_pixels) from None
    except _BROKEN_FILE as error:
        raise InvalidImage(
            f"The image in '{field}' is damaged or cut off; it begins like {name} but cannot be read.", field=field
        ) from error


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
    """The EXIF orientation, 1 to 8; a broken EXIF block is not worth refusing a good picture for.

    Asked through the parent class, because PNG's own method decodes the whole picture to look behind it.
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
