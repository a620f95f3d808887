"""Arrays of pixels: their colours, their size, and one laid over another. No file formats here.

Any colour mode that Pillow opens becomes 8-bit sRGB or grey. Embedded colour profiles are followed when they can be; a
broken one is left aside, and what a profile is called is not looked at.
"""

from __future__ import annotations

import io
from contextlib import suppress
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""An image: (height, width, 3) uint8, sRGB, C-contiguous."""

Mask: TypeAlias = npt.NDArray[np.uint8]
"""Where to edit: (height, width) uint8, 255 = edit here, 0 = keep, between = blend."""

# --- colours, from a Pillow image to an array

_WHITE: Final = (255, 255, 255)
_PROFILE_SPACE: Final = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK", "LAB": "Lab"}
_ROUNDING: Final = 2  # of 255: an sRGB curve stored as a table or with rounded numbers
_DEEP_MODES: Final = ("I", "F")  # and every I;16 variant
_STRIP_BYTES: Final = 1 << 20


def flat_rgb(image: Image.Image) -> tuple[Image.Image, bool]:
    """`image` in mode RGB and sRGB, with transparent parts laid on white; and whether there were any."""
    profile = image.info.get("icc_profile")
    image = _eight_bit(image)
    alpha = None
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    elif image.mode in ("P", "1", "PA", "La", "RGBa"):
        image = image.convert("RGB")
    if profile or image.mode == "LAB":
        # A damaged or foreign profile is left aside: the numbers as they stand are the best guess.
        with suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError):
            image = _through_profile(image, profile)
    if image.mode != "RGB":  # Pillow would copy what needs no conversion, 48 MB of a photo of 12 megapixels
        image = (image.getchannel("L") if image.mode == "LAB" else image).convert("RGB")
    if alpha is None or alpha.getextrema()[0] == 255:
        return image, False
    flat = Image.new("RGB", image.size, _WHITE)
    flat.paste(image, mask=alpha)
    return flat, True


def grey_of(image: Image.Image) -> Image.Image:
    """The brightness of `image` in mode L, transparency not looked at."""
    return _eight_bit(image).convert("RGB").convert("L")


def _through_profile(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert by `profile`, or by the plain Lab space without one. Raises for a profile of another space."""
    if profile is None:
        source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    else:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = source.profile.xcolor_space.strip()
    if space != _PROFILE_SPACE.get(image.mode):
        raise ValueError(f"a profile for {space} does not describe {image.mode}")
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), image.mode, "RGB")
    if image.mode == "RGB" and _changes_nothing(transform):
        return image
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None, "only an in-place conversion gives None"
    return converted


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether RGB colours stay what they are, as under sRGB's own profiles: then no conversion rounds them."""
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    converted = ImageCms.applyTransform(Image.fromarray(colours), transform)
    return int(np.abs(np.asarray(converted).astype(int) - colours).max()) <= _ROUNDING


def _eight_bit(image: Image.Image) -> Image.Image:
    """Deep grey scaled to mode L, or LA where one value is declared transparent; anything else as it is.

    Sixteen-bit files fill 0 to 65535; floats are taken as 0 to 1 if they fit.
    """
    if image.mode not in _DEEP_MODES and not image.mode.startswith("I;16"):
        return image
    values = np.nan_to_num(np.asarray(image).astype(np.float32))
    if image.mode == "F":
        top = 1.0 if values.max() <= 1 else 255.0 if values.max() <= 255 else 65535.0
    else:
        top = 65535.0 if values.max() <= 65535 else 2.0**31 - 1
    scaled = np.clip(values * (255 / top) + 0.5, 0, 255).astype(np.uint8)
    grey = Image.fromarray(scaled)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        opaque = np.where(values == transparent, 0, 255).astype(np.uint8)
        return Image.merge("LA", (grey, Image.fromarray(opaque)))
    return grey


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


# --- sizes and layers


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
