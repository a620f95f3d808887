"""Any colour mode Pillow opens, to 8-bit sRGB or grey.

Embedded colour profiles are followed when they can be; a broken one is left aside. What a profile is called
is not looked at. Knows no files.
"""

from __future__ import annotations

import io
from typing import Final

import numpy as np
from PIL import Image, ImageCms

_WHITE: Final = (255, 255, 255)
_PROFILE_SPACE: Final = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK", "LAB": "Lab"}
_ROUNDING: Final = 2  # of 255: an sRGB curve stored as a table or with rounded numbers
_DEEP_MODES: Final = ("I", "F")  # and every I;16 variant


def flat_rgb(image: Image.Image) -> tuple[Image.Image, bool]:
    """`image` in mode RGB and sRGB, with transparent parts laid on white; and whether there were any."""
    profile = image.info.get("icc_profile")
    image = _eight_bit(image)
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    elif image.mode in ("P", "1", "PA", "La", "RGBa"):
        image = image.convert("RGB")
    image = _in_srgb(image, profile)
    if alpha is None:
        return image, False
    flat = Image.new("RGB", image.size, _WHITE)
    flat.paste(image, mask=alpha)
    least, _ = alpha.getextrema()
    return flat, least != 255


def grey_of(image: Image.Image) -> Image.Image:
    """The brightness of `image` in mode L, transparency not looked at."""
    return _eight_bit(image).convert("RGB").convert("L")


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile or image.mode == "LAB":
        try:
            return _through_profile(image, profile)
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass  # a damaged or foreign profile: the numbers as they stand are the best guess
    if image.mode == "LAB":
        return image.getchannel("L").convert("RGB")
    return image.convert("RGB")


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
