"""Whether an image file is whole, told from its structure: nothing is decoded and little of it is in memory.

For files that are passed on as they came. `decoding.py` judges the pixels of those that are worked on.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import IO, Final

from retouch.errors import ImageTooLarge, InvalidImage
from retouch.images.decoding import MAX_PIXELS, ImageHeader, declared_size, probe, sniff

_PIECE: Final = 256 * 1024
_PNG_HEAD: Final = 8
_MARKERS_WITHOUT_LENGTH: Final = frozenset((0x01, *range(0xD0, 0xD9)))
_FRAMES: Final = frozenset((*range(0xC0, 0xD0),)) - {0xC4, 0xC8, 0xCC}
"""JPEG's start-of-frame markers (ITU-T T.81, table B.1)."""


def check_whole(file: IO[bytes], *, field: str = "images[0]", max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """What the file says it is, once it has been seen to its end; width and height as stored, not turned upright.

    Raises InvalidImage (no image, damaged or cut off) or ImageTooLarge, naming `field`.
    """
    file.seek(0)
    start = file.read(512)
    name = sniff(start)
    try:
        size = _SIZES[name](file, start) if name in _SIZES else None
    except (struct.error, IndexError):
        size = None
    if size is None:
        if name in _SIZES:
            raise InvalidImage(f"The image in '{field}' is damaged or cut off; it begins like {name}.", field=field)
        file.seek(0)
        return probe(file.read(), field=field, max_pixels=max_pixels)
    width, height = size
    if width * height > max_pixels:
        problem = f"is {width} × {height} pixels; at most {max_pixels} pixels are allowed"
        raise ImageTooLarge(f"The image in '{field}' {problem}.", field=field, max_pixels=max_pixels)
    return ImageHeader(str(name), f"image/{name}", width, height)


def _png(file: IO[bytes], start: bytes) -> tuple[int, int] | None:
    """Every chunk up to IEND with its checksum (W3C PNG, section 5)."""
    width, height = struct.unpack_from(">II", start, 16)
    file.seek(_PNG_HEAD)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        checksum = zlib.crc32(kind)
        while length:
            piece = file.read(min(length, _PIECE))
            if not piece:
                return None
            checksum = zlib.crc32(piece, checksum)
            length -= len(piece)
        if file.read(4) != struct.pack(">I", checksum):
            return None
        if kind == b"IEND":
            return (width, height) if width and height else None
    return None


def _jpeg(file: IO[bytes], _: bytes) -> tuple[int, int] | None:
    """Segments up to the first scan, then the end marker behind it, which no scan can hold."""
    size = None
    file.seek(2)
    while True:
        marker = file.read(2)
        while marker == b"\xff\xff":
            marker = marker[1:] + file.read(1)
        if len(marker) < 2 or marker[0] != 0xFF:
            return None
        if marker[1] in _MARKERS_WITHOUT_LENGTH:
            continue
        (length,) = struct.unpack(">H", file.read(2))
        if marker[1] in _FRAMES:
            height, width = struct.unpack_from(">HH", file.read(5), 1)
            size = (width, height)
            length -= 5
        file.seek(length - 2, os.SEEK_CUR)
        if marker[1] == 0xDA:
            break
    last = b""
    while piece := file.read(_PIECE):
        if b"\xff\xd9" in last + piece:
            return size
        last = piece[-1:]
    return None


def _webp(file: IO[bytes], start: bytes) -> tuple[int, int] | None:
    length = file.seek(0, os.SEEK_END)
    (announced,) = struct.unpack_from("<I", start, 4)
    return declared_size("webp", start) if length >= announced + 8 else None


def _gif(file: IO[bytes], start: bytes) -> tuple[int, int] | None:
    file.seek(max(-64, -file.seek(0, os.SEEK_END)), os.SEEK_END)
    return declared_size("gif", start) if file.read().rstrip(b"\0").endswith(b";") else None


_SIZES: Final = {"png": _png, "jpeg": _jpeg, "webp": _webp, "gif": _gif}
