"""Image files to pixels: recognised, limits first, made readable, then upright, first frame, sRGB, on white.

`probe` reads headers only and is cheap enough for every upload; `decode` and `decode_mask` do the work.
Nothing here trusts a file: its format is told by its first bytes, since file names and declared types lie, and its
size is known before anything of that size is allocated. What is damaged stays damaged; only where a file differs from
what Pillow takes in something that no pixel depends on is it mended. A file that came as a data URI is taken out of it
first. Colours are converted in `pixels.py`.
"""

from __future__ import annotations

import binascii
import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

import numpy as np
import pybase64
from PIL import Image, ImageOps, PngImagePlugin

from retouch.errors import ImageTooLarge, InvalidImage, UnsupportedImageFormat
from retouch.images.pixels import Mask, Pixels, array_of, flat_rgb, grey_of

READABLE_FORMATS = ("png", "jpeg", "webp", "gif", "avif", "bmp", "tiff")
"""What `decode` reads, by the name that `image/…` uses."""

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
    least, drawn, remark = 255, False, ""
    with _opened(data, field, max_pixels, whole=True) as (_, image):
        upright = _upright(image)
        if upright.has_transparency_data:
            rgba = upright.convert("RGBA")
            alpha = np.array(rgba.getchannel("A"))
            least = int(alpha.min())
            drawn = least < 255 and _drawn_in_black_and_white(np.asarray(rgba), alpha)
        if least == 255 or (drawn and least >= _HALF):
            mask = np.array(grey_of(upright))
            if drawn:
                remark = "It is drawn in black and white and nowhere more transparent than opaque: white was taken as "
                remark += "'edit here', its slight transparency was not used."
        else:
            mask = 255 - alpha
            if drawn:
                remark = "It has transparent parts and is drawn in black and white: transparent was taken as "
                remark += "'edit here', black and white were not used."
            elif least >= _HALF:
                share = 100 * (255 - least) / 255
                remark = f"It is at most {share:.3g} % transparent, so the edit shows through at most so much."
    if mask.max() == 0:
        remark = "It marks nothing, so nothing of the image was edited. Transparent means edit; so does white without"
        remark += " transparency."
    if remark and remarks is not None:
        remarks.append(remark)
    return mask


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
    if not data:
        raise InvalidImage(f"The image in '{field}' is empty (0 bytes).", field=field)
    name = sniff(data)
    if name is None:
        readable = ", ".join(word.upper() for word in READABLE_FORMATS)
        raise UnsupportedImageFormat(
            f"The image in '{field}' is {_seems_to_be(data)}; send one of {readable}.",
            field=field,
            supported_formats=READABLE_FORMATS,
        )
    _check_area(declared_size(name, data), field, max_pixels)
    if name == "png":
        data = _plain_png(data)
    try:
        if whole and name == "jpeg":
            with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
                _check_area(image.size, field, max_pixels)  # before the search for a missing end decodes all of it
            data = _ended_jpeg(data)
        with Image.open(io.BytesIO(data), formats=[name.upper()]) as image:
            _check_area(image.size, field, max_pixels)
            yield name, image
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise _too_large(field, max_pixels) from None
    except _BROKEN_FILE as error:
        raise InvalidImage(
            f"The image in '{field}' is damaged or cut off; it begins like {name} but cannot be read.", field=field
        ) from error


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


def _check_area(size: tuple[int, int] | None, field: str, max_pixels: int) -> None:
    if size is not None and size[0] * size[1] > max_pixels:
        raise _too_large(field, max_pixels, size)


def _too_large(field: str, max_pixels: int, size: tuple[int, int] | None = None) -> ImageTooLarge:
    extent = f" is {size[0]} × {size[1]} pixels" if size else " has too many pixels"
    return ImageTooLarge(
        f"The image in '{field}'{extent}; at most {max_pixels} pixels are allowed.", field=field, max_pixels=max_pixels
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


# --- which format, and how large it says it is

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


def _seems_to_be(data: bytes) -> str:
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
        if name != "webp":
            return None
        chunk = data[12:16]  # the first one tells the kind of file: RFC 9649, sections 2.5 to 2.7
        if chunk == b"VP8X":
            width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
            return width, height
        if chunk == b"VP8L":
            (bits,) = struct.unpack_from("<I", data, 21)
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        if chunk == b"VP8 ":
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
    except struct.error:
        pass
    return None


def _brands(data: bytes) -> set[bytes]:
    """Major and compatible brands of an ISO media file such as AVIF or HEIC, or nothing."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), 256)
    return {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))}


# --- mending

_MAX_INFLATED_BYTES: Final = 16 * 1024 * 1024
"""Of one colour profile or text. Display profiles have 3 kB, print profiles up to about 4 MB."""

# Pillow's own bound, 1 MB, is an error that refuses the whole image. What is above ours never reaches it.
PngImagePlugin.MAX_TEXT_CHUNK = _MAX_INFLATED_BYTES

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


def _plain_png(data: bytes) -> bytes:
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
    """Whether the text or profile that the chunk holds stays within _MAX_INFLATED_BYTES once it is inflated."""
    packed = body.partition(b"\0")[2]
    if name in (b"iCCP", b"zTXt"):
        if packed[:1] != b"\0":
            return False
        packed = packed[1:]
    elif name == b"iTXt" and packed[:1] != b"\0":
        packed = packed[2:].split(b"\0", 2)[-1]
    else:
        return len(packed) <= _MAX_INFLATED_BYTES
    inflater = zlib.decompressobj()
    try:
        inflater.decompress(packed, _MAX_INFLATED_BYTES)
    except zlib.error:
        return False
    return inflater.eof or not inflater.unconsumed_tail


def _ended_jpeg(data: bytes) -> bytes:
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


# --- data URIs

_LINE_BREAK: Final = re.compile(rb"[\r\n\t]+( *)")
_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")
_MANY_BLANKS: Final = 8
"""So many irregular ones are no accident of layout; a lost `+` stands in every 64 characters on average."""


def is_data_uri(text: str) -> bool:
    return text[:5].lower() == "data:"


def decode_data_uri(text: str, *, field: str) -> bytes:
    """The bytes of a base64 data URI (RFC 2397), as browsers read them; no image is looked for in them.

    Base64 that cannot be meant otherwise is repaired: missing padding, percent escapes, white space from line breaks,
    the URL-safe alphabet, and a `+` that a form decoder has turned into a space. Everything else is refused, because
    bytes that were guessed would be another image. Raises InvalidImage with `field`.
    """
    head, comma, payload = text.partition(",")
    if not comma or not head.rstrip().lower().endswith(";base64"):
        raise InvalidImage(f"The data URI in '{field}' must be base64: 'data:image/png;base64,…'.", field=field)
    data = unquote_to_bytes(payload) if "%" in payload else payload.encode()
    data = data.strip(b"\r\n\t")
    # Indentation behind a line break goes with it where every line has the same; else its blanks may be lost `+`.
    indentations = set(_LINE_BREAK.findall(data))
    data = _LINE_BREAK.sub(b"" if len(indentations) == 1 else rb"\1", data).translate(_URL_SAFE)
    if b" " in data:
        data = _without_blanks(data, field)
    if not _has_base64_length(data):
        raise InvalidImage(f"The data URI in '{field}' is cut off: its base64 ends within a byte.", field=field)
    data = data.rstrip(b"=")
    try:
        return pybase64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidImage(f"The data URI in '{field}' is not valid base64.", field=field) from None


def _without_blanks(data: bytes, field: str) -> bytes:
    """Blanks are a `+` each, or layout; raises InvalidImage where both could be.

    A form decoder turns every `+` into a blank, so where a `+` is left the blanks are layout. So are those before the
    base64, because no image format's begins with a `+`, and those behind its padding. Else the length may tell; and
    many at irregular distances are no folded lines, so each was a `+`.
    """
    data = data.lstrip(b" ")
    if data.rstrip(b" ").endswith(b"="):
        data = data.rstrip(b" ")
    layout, restored = data.replace(b" ", b""), data.replace(b" ", b"+")
    if b"+" in data or layout == restored:
        return layout
    possible = [candidate for candidate in (layout, restored) if _has_base64_length(candidate)]
    if len(possible) == 1:
        return possible[0]
    *distances, _ = map(len, data.split(b" "))
    if possible and len(distances) >= _MANY_BLANKS and len(set(distances)) > 1:
        return restored
    raise InvalidImage(
        f"The data URI in '{field}' holds blanks where '+' may have been; write each '+' as %2B in a form.", field=field
    )


def _has_base64_length(data: bytes) -> bool:
    """Whether the length is one that base64 can have: a multiple of four with its padding, or no remainder of one."""
    return len(data) % 4 == 0 if data.endswith(b"=") else len(data) % 4 != 1
