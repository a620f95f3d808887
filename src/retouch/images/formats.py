"""Image files before they are decoded: which format they are in, how large they say they are, and made readable.

Formats are told by the first bytes; file names and declared types are not asked: they lie. Files that differ from what
Pillow takes only in what no pixel depends on are made readable, losslessly. PNG: text chunks and colour profiles are
left out unless they are small enough and needed. JPEG: the end marker is put back where only that is missing. Decodes
nothing to keep; what is damaged stays damaged.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Final

from PIL import Image, PngImagePlugin

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


MAX_INFLATED_BYTES: Final = 16 * 1024 * 1024
"""Of one colour profile or text. Display profiles have 3 kB, print profiles up to about 4 MB."""

# Pillow's own bound, 1 MB, is an error that refuses the whole image. What is above ours never reaches it.
PngImagePlugin.MAX_TEXT_CHUNK = MAX_INFLATED_BYTES

_SIGNATURE_BYTES: Final = 8
_NEEDED: Final = frozenset((b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT"))
_TEXTS: Final = frozenset((b"tEXt", b"zTXt", b"iTXt"))
_ORIENTED_TEXTS: Final = frozenset((b"XML:com.adobe.xmp", b"Raw profile type exif", b"Raw profile type APP1"))
"""Texts that may say which way up an image is."""

_JPEG_END: Final = b"\xff\xd9"
_JPEG_SCAN: Final = b"\xff\xda"
_FILLERS: Final = (
    b"\xff\x00" * 64,
    b"\x55" * 64,
    b"\x2d\x6b" * 64,
    b"".join(bytes((0xFF, marker)) + b"\x55" * 16 for marker in range(0xD0, 0xD8)),
)
"""Entropy-coded bytes, the last ones behind every restart marker."""


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
    start = data[:512]
    is_text = b"\x00" not in start and all(byte >= 32 or byte in b"\t\r\n\f" for byte in start)
    return "text" if is_text else "an unknown format"


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


def plain_png(data: bytes) -> bytes:
    """`data` without the ancillary chunks that are not needed, damaged, repeated, or too large once inflated.

    Browsers skip such chunks, too. A file that ends within a chunk keeps its end as it is.
    """
    view = memoryview(data)
    kept, at, inflated, whole = [view[:_SIGNATURE_BYTES]], _SIGNATURE_BYTES, set[bytes](), True
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(view[at : at + 4], "big")
        if end > len(data):
            break
        name, body = bytes(view[at + 4 : at + 8]), view[at + 8 : end - 4]
        if not name[:1].islower():  # critical, or no chunk at all: the decoder judges it
            needed = True
        elif name in _NEEDED:
            needed = _is_whole(view[at:end])
        else:
            keyword = bytes(body[:80]).partition(b"\0")[0]
            needed = name == b"iCCP" or (name in _TEXTS and keyword in _ORIENTED_TEXTS)
            if needed:  # at most one of each is inflated, however many a file holds
                needed = name not in inflated and _is_whole(view[at:end]) and _is_small(name, bytes(body))
                inflated.add(name)
        if needed:
            kept.append(view[at:end])
        whole &= needed
        at = end
    return data if whole else b"".join((*kept, view[at:]))


def _is_whole(chunk: memoryview) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def _is_small(name: bytes, body: bytes) -> bool:
    """Whether what the chunk holds stays within MAX_INFLATED_BYTES."""
    rest = body.partition(b"\0")[2]
    if name in (b"iCCP", b"zTXt"):
        return rest[:1] == b"\0" and _inflates_within_bounds(rest[1:])
    if name == b"iTXt" and rest[:1] != b"\0":
        return _inflates_within_bounds(rest[2:].split(b"\0", 2)[-1])
    return len(rest) <= MAX_INFLATED_BYTES


def _inflates_within_bounds(packed: bytes) -> bool:
    inflater = zlib.decompressobj()
    try:
        inflater.decompress(packed, MAX_INFLATED_BYTES)
    except zlib.error:
        return False
    return inflater.eof or not inflater.unconsumed_tail


def ended_jpeg(data: bytes) -> bytes:
    """`data` with its end marker, where everything else is there; as it is when the image data are cut off, too.

    libjpeg fills what is missing of a scan with grey and Pillow does not pass on its warning. So further bytes are
    put behind the data: a complete scan does not read them, and the pixels stay the same.
    """
    if data.find(_JPEG_END, max(data.rfind(_JPEG_SCAN), 0)) >= 0:
        return data
    bare = data.removesuffix(b"\xff")
    try:
        pixels = _pixels(bare + _JPEG_END)
        complete = all(_pixels(bare + filler + _JPEG_END) == pixels for filler in _FILLERS)
    except (OSError, SyntaxError):
        return data
    return bare + _JPEG_END if complete else data


def _pixels(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        return image.tobytes()
