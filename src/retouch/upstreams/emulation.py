"""What the gateway does to an image that a provider made: its size, what a mask protects, its file format.

In this order, on the bytes that came. The format they have is the one their first bytes tell; what the provider calls
it is not asked. It fetches and stores nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from retouch import images
from retouch.catalog.normalised import Emulation
from retouch.catalog.target_sizes import shapes_differ
from retouch.edit import OutputFormat
from retouch.errors import InvalidImage
from retouch.images import Mask, Pixels
from retouch.sizes import check_mask

RESULT: Final = "result"
"""What errors name as their field: the provider's image, and none of the caller's."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The caller's own pixels, where a mask is composited here: the first image, upright, and the mask in its size."""

    source: Pixels
    mask: Mask

    @classmethod
    def read(cls, source: bytes, mask: bytes, *, remarks: list[str] | None = None) -> Inputs:
        """Decode both. Raises InvalidImage of any kind naming `images[0]` or `mask`."""
        pixels = images.decode(source, field="images[0]")
        share = images.decode_mask(mask, field="mask", remarks=remarks)
        check_mask((share.shape[1], share.shape[0]), (pixels.shape[1], pixels.shape[0]), field="mask")
        return cls(pixels, share)


@dataclass(frozen=True, slots=True)
class FinishedImage:
    """A file to deliver. width, height: as seen upright. touched: its pixels were decoded and encoded here."""

    data: bytes
    media_type: str
    width: int
    height: int
    touched: bool


def emulate(
    data: bytes, emulation: Emulation, inputs: Inputs | None = None, *, xmp: bytes | None = None
) -> FinishedImage:
    """The file the caller gets for the one that came.

    inputs: needed when `emulation.mask` is set. xmp: a packet for a file that is encoded here. Bytes that are what is
    wanted already are given back as they are. Raises InvalidImage of any kind, naming `result`, for what is no image,
    and for one whose shape is not the source's where a mask has to be composited.
    """
    header = images.probe(data, field=RESULT)
    size = (header.width, header.height)
    wanted = emulation.output_format or _own_format(header.format)
    if emulation.mask is None and emulation.size in (None, size) and header.format == wanted.value:
        return FinishedImage(data, header.media_type, *size, touched=False)
    pixels = _fitted(images.decode(data, field=RESULT), emulation.size)
    if emulation.mask is not None:
        assert inputs is not None, "a mask is composited over the caller's own image"
        pixels = _composited(pixels, inputs)
    encoded = images.encode(pixels, wanted.value, emulation.output_quality, xmp=xmp)
    return FinishedImage(encoded, wanted.media_type, pixels.shape[1], pixels.shape[0], touched=True)


def _fitted(pixels: Pixels, size: tuple[int, int] | None) -> Pixels:
    """Resized; of an image in another shape the middle is taken, for nothing is to be stretched."""
    if size is None:
        return pixels
    if shapes_differ(pixels.shape[1] / pixels.shape[0], size[0] / size[1]):
        return images.cover(pixels, size)
    return images.resize(pixels, size)


def _composited(pixels: Pixels, inputs: Inputs) -> Pixels:
    height, width = inputs.source.shape[:2]
    if shapes_differ(pixels.shape[1] / pixels.shape[0], width / height):
        raise InvalidImage(
            f"The image that came has {pixels.shape[1]} x {pixels.shape[0]} pixels, another shape than the first input "
            f"({width} x {height}), so what the mask protects could not be put back.",
            field=RESULT,
        )
    return images.composite(pixels, inputs.source, inputs.mask)


def _own_format(name: str) -> OutputFormat:
    """The format of the file that came; png for one that is never delivered, such as bmp."""
    return OutputFormat(name) if name in list(OutputFormat) else OutputFormat.PNG
