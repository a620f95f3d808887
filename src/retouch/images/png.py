"""Writes RGB pixels as PNG some twenty times faster than zlib's default, losslessly.

Each row is stored as its difference from the row above (the Up filter), which numpy does at memory speed,
and ISA-L deflates the result. Writes the three chunks a reader needs, one for an XMP packet, and no others.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from isal import isal_zlib

from retouch.images.pixels import Pixels

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_UP = 2
_RGB_8BIT = (8, 2, 0, 0, 0)  # bit depth, colour type, compression, filter method, interlace
_XMP_KEYWORD = b"XML:com.adobe.xmp\0\0\0\0\0"  # keyword, not compressed, no language, no translation
_ISAL_LEVEL = 1  # 0 gives files a third larger; 2 and 3 cost more time for less than 1 % of size


def write_png(pixels: Pixels, xmp: bytes | None = None) -> bytes:
    """The PNG file of `pixels` (height, width, 3); both sides at least 1. xmp: a packet to embed."""
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, width * 3)
    filtered = np.empty((height, 1 + width * 3), dtype=np.uint8)
    filtered[:, 0] = _UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    header = struct.pack(">II5B", width, height, *_RGB_8BIT)
    packed = isal_zlib.compress(filtered, _ISAL_LEVEL)
    text = () if xmp is None else _chunk(b"iTXt", _XMP_KEYWORD + xmp)
    return b"".join((_SIGNATURE, *_chunk(b"IHDR", header), *text, *_chunk(b"IDAT", packed), *_chunk(b"IEND", b"")))


def _chunk(name: bytes, body: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    checksum = zlib.crc32(body, zlib.crc32(name))
    return struct.pack(">I", len(body)), name, body, struct.pack(">I", checksum)
