"""Tells file formats apart by their first bytes. File names and declared types are not asked: they lie."""

from __future__ import annotations

import struct

READABLE_FORMATS = ("png", "jpeg", "webp", "gif", "avif", "bmp", "tiff")
"""What `decode` reads, by the name that `image/…` uses."""

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"BM", "bmp"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
    (b"II+\x00", "tiff"),
    (b"MM\x00+", "tiff"),
)

_FOREIGN_SIGNATURES = (
    (b"%PDF", "PDF"),
    (b"8BPS", "PSD"),
    (b"\x00\x00\x01\x00", "ICO"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "a zip archive"),
)


def sniff(data: bytes) -> str | None:
    """The format `data` begins like, one of READABLE_FORMATS, or None."""
    for signature, name in _SIGNATURES:
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return "avif" if _brands(data) & {b"avif", b"avis"} else None


def describe(data: bytes) -> str:
    """What `data` seems to be, in a word for the caller of a format that is not read."""
    for signature, name in _FOREIGN_SIGNATURES:
        if data.startswith(signature):
            return name
    if _brands(data):
        return "HEIC" if _brands(data) & {b"heic", b"heix", b"heif", b"mif1", b"msf1", b"hevc"} else "a video"
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"<"):
        return "SVG" if b"<svg" in start else "a web page or XML"
    return "text" if _is_text(data[:512]) else "an unknown format"


def declared_size(name: str, data: bytes) -> tuple[int, int] | None:
    """(width, height) from the header of the formats whose decoder would allocate before telling it.

    None for the other formats and for a header that is too short or odd; the decoder judges those.
    """
    try:
        if name == "gif":
            width, height = struct.unpack_from("<HH", data, 6)
            return width, height
        if name == "webp":
            return _webp_size(data)
    except struct.error:
        pass
    return None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Source: RFC 9649, sections 2.5 to 2.7."""
    chunk = data[12:16]
    if chunk == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return width, height
    if chunk == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _brands(data: bytes) -> set[bytes]:
    """Major and compatible brands of an ISO media file such as AVIF or HEIC, or nothing."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), 256)
    return {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))}


def _is_text(start: bytes) -> bool:
    return b"\x00" not in start and all(byte >= 32 or byte in b"\t\r\n\f" for byte in start)
