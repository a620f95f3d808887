"""Pixels to image files. What is written holds the image and, if it is given one, an XMP packet; nothing else: no EXIF,
no profile, no text."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pybase64
from isal import isal_zlib
from PIL import Image

from retouch.errors import ImageTooLarge, NotOneOf
from retouch.images.pixels import Pixels

CHROMA_SUBSAMPLED_BELOW = 90
"""Quality from which JPEG and AVIF keep the full resolution of colour (4:4:4); below it is halved (4:2:0)."""

AVIF_SPEED = 8
"""libaom's scale from 0 (slow) to 10. 8 is about twice as fast as the default 6 for a few per cent of size."""

WEBP_METHOD = 4
GIF_COLOURS = 256

MAX_SIDES = {"png": 2**31 - 1, "jpeg": 65_500, "webp": 16_383, "avif": 65_536, "gif": 65_535}
"""Longest side in pixels that each file format, or its usual encoder, can hold."""


_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_UP = 2
_RGB_8BIT = (8, 2, 0, 0, 0)  # bit depth, colour type, compression, filter method, interlace
_XMP_KEYWORD = b"XML:com.adobe.xmp\0\0\0\0\0"  # keyword, not compressed, no language, no translation
_ISAL_LEVEL = 1  # 0 gives files a third larger; 2 and 3 cost more time for less than 1 % of size


def encode(
    pixels: Pixels,
    format: str,  # noqa: A002 - the word everybody uses
    quality: int = 95,
    *,
    xmp: bytes | None = None,
) -> bytes:
    """The image file of `pixels`, uint8 (height, width, 3).

    format: png, jpeg, webp, avif or gif; an `edit.OutputFormat` is such a word. quality: 0 to 100, for jpeg,
    webp and avif; png is lossless and gif has its palette. xmp: a packet to embed; gif has no place for it that others
    read, so it stays without. The same arguments always give the same bytes.
    Raises ImageTooLarge when a side is longer than the format can hold.
    """
    if format not in MAX_SIDES:
        raise NotOneOf("output_format", format, tuple(MAX_SIDES))
    height, width = pixels.shape[:2]
    if max(width, height) > MAX_SIDES[format]:
        raise ImageTooLarge(
            f"An image of {width} × {height} pixels does not fit in {format}: "
            f"its longest side may be {MAX_SIDES[format]}.",
            field="output_format",
            max_width=MAX_SIDES[format],
            max_height=MAX_SIDES[format],
        )
    return _write_png(pixels, xmp) if format == "png" else _encode_by_pillow(pixels, format, quality, xmp)


def data_uri(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{pybase64.b64encode_as_string(data)}"


def _encode_by_pillow(pixels: Pixels, name: str, quality: int, xmp: bytes | None) -> bytes:
    image = Image.fromarray(pixels)
    out = io.BytesIO()
    packet = {} if xmp is None else {"xmp": xmp}
    subsampling = "4:2:0" if quality < CHROMA_SUBSAMPLED_BELOW else "4:4:4"
    if name == "jpeg":
        image.save(out, "JPEG", quality=quality, subsampling=subsampling, **packet)
    elif name == "webp":
        image.save(out, "WEBP", quality=quality, method=WEBP_METHOD, **packet)
    elif name == "avif":
        image.save(out, "AVIF", quality=quality, subsampling=subsampling, speed=AVIF_SPEED, **packet)
    else:
        palette = image.quantize(GIF_COLOURS, method=Image.Quantize.MEDIANCUT)
        image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(out, "GIF")
    return out.getvalue()


def _write_png(pixels: Pixels, xmp: bytes | None = None) -> bytes:
    """Some twenty times faster than zlib's default: each row is stored as its difference from the row above (the Up
    filter), which numpy does at memory speed, and ISA-L deflates the result.
    """
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, width * 3)
    filtered = np.empty((height, 1 + width * 3), dtype=np.uint8)
    filtered[:, 0] = _UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    header = struct.pack(">II5B", width, height, *_RGB_8BIT)
    packed = isal_zlib.compress(filtered, _ISAL_LEVEL)
    text = () if xmp is None else _png_chunk(b"iTXt", _XMP_KEYWORD + xmp)
    return b"".join(
        (_PNG_SIGNATURE, *_png_chunk(b"IHDR", header), *text, *_png_chunk(b"IDAT", packed), *_png_chunk(b"IEND", b""))
    )


def _png_chunk(name: bytes, body: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    checksum = zlib.crc32(body, zlib.crc32(name))
    return struct.pack(">I", len(body)), name, body, struct.pack(">I", checksum)
