"""Pixels to image files, with the mark of their making: that a trained algorithm took part, and which program wrote it.

By default the mark is an XMP packet with the IPTC's digital source type; on the operator's wish also a C2PA manifest,
signed with the operator's certificate. Neither ever holds the prompt, a key or a host, and nothing is hidden in the
pixels. A file holds nothing besides: no EXIF, no profile, no text.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pybase64
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from isal import isal_zlib
from PIL import Image

from retouch.errors import ImageTooLarge, InvalidSetting, NotOneOf
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
    format: str,  # noqa: A002 - the usual word
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
    if format == "png":
        return _write_png(pixels, xmp)
    image = Image.fromarray(pixels)
    out = io.BytesIO()
    packet = {} if xmp is None else {"xmp": xmp}
    subsampling = "4:2:0" if quality < CHROMA_SUBSAMPLED_BELOW else "4:4:4"
    if format == "jpeg":
        image.save(out, "JPEG", quality=quality, subsampling=subsampling, **packet)
    elif format == "webp":
        image.save(out, "WEBP", quality=quality, method=WEBP_METHOD, **packet)
    elif format == "avif":
        image.save(out, "AVIF", quality=quality, subsampling=subsampling, speed=AVIF_SPEED, **packet)
    else:
        palette = image.quantize(GIF_COLOURS, method=Image.Quantize.MEDIANCUT)
        image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(out, "GIF")
    return out.getvalue()


def data_uri(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{pybase64.b64encode_as_string(data)}"


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


# --- the mark of provenance

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC's word for a photograph and trained generation together: the input was the caller's, the edit a model's."""

XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
    ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmp:CreatorTool="Retouch"'
    f' Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}"/></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
).encode()


@dataclass(frozen=True, slots=True)
class Provenance:
    """How output files are marked. xmp: the packet, or None. credentials: None for no signature."""

    xmp: bytes | None = XMP
    credentials: ContentCredentials | None = None

    def encode(self, pixels: Pixels, format: str, quality: int = 95) -> bytes:  # noqa: A002 - as in `encode`
        """The marked file; arguments and errors are those of `encode`."""
        data = encode(pixels, format, quality, xmp=self.xmp)
        return data if self.credentials is None else self.credentials.sign(data, f"image/{format}")


XMP_PROVENANCE = Provenance()
NO_PROVENANCE = Provenance(xmp=None)


MANIFEST = {
    "claim_generator_info": [{"name": "Retouch"}],
    "assertions": [
        {
            "label": "c2pa.actions.v2",
            "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE}]},
        }
    ],
}

_NO_THUMBNAIL = {"builder": {"thumbnail": {"enabled": False}}}
"""By default one is embedded, of 0.2 to 2 MB."""

_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


class ContentCredentials:
    """Signs image files with the operator's certificate; may be called from several threads.

    certificates: PEM, the signer's own first, then its chain. key: PEM of the private key.
    """

    def __init__(self, certificates: Path, key: Path) -> None:
        """Raises InvalidSetting when the extra is not installed, or the two files cannot sign."""
        try:
            import c2pa
        except ImportError:
            raise InvalidSetting("--provenance c2pa needs the extra 'c2pa': pip install 'retouch[c2pa]'.") from None
        self._c2pa: Any = c2pa
        self._chain = _read(certificates, "--provenance-cert")
        self._key = _read(key, "--provenance-key")
        self._algorithm = _algorithm_of(self._key, key)
        try:
            self.sign(encode(np.zeros((16, 16, 3), np.uint8), "png"), "image/png")
        except c2pa.C2paError as error:
            reason = next(iter(str(error).splitlines()), "unknown").rstrip(".")
            raise InvalidSetting(f"--provenance-cert {certificates} cannot sign images: {reason}.") from None

    def sign(self, data: bytes, media_type: str) -> bytes:
        """The same file with a manifest, about 3 kB more. The signature differs each time; the pixels do not."""
        info = self._c2pa.C2paSignerInfo(self._algorithm, self._chain.encode(), self._key.encode(), None)
        out = io.BytesIO()
        with (
            self._c2pa.Signer.from_info(info) as signer,
            self._c2pa.Context(self._c2pa.Settings.from_dict(_NO_THUMBNAIL)) as context,
            self._c2pa.Builder(json.dumps(MANIFEST), context) as builder,
        ):
            builder.sign(signer, media_type, io.BytesIO(data), out)
        return out.getvalue()


def _read(path: Path, option: str) -> str:
    try:
        return path.expanduser().read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no PEM text"
        raise InvalidSetting(f"{option}: {path} cannot be read: {reason}.") from None


def _algorithm_of(key: str, path: Path) -> str:
    """The signature algorithm that C2PA names for a kind of key."""
    try:
        private = load_pem_private_key(key.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InvalidSetting(f"--provenance-key: {path} is no private key in PEM without a password.") from None
    if isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name in _CURVES:
        return _CURVES[private.curve.name]
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(private, rsa.RSAPrivateKey):
        return "ps256"
    raise InvalidSetting(f"--provenance-key: {path} is of a kind that C2PA does not sign with; use P-256.")
