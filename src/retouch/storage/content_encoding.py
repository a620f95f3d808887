"""Undoes the Content-Encoding of an answer, within a limit of bytes.

Servers write things there that are no coding (S3 keeps whatever the upload named) and send codings that were
not accepted. Knows neither HTTP nor what the bytes are.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from typing import Final

import brotli
import zstandard

MAX_CODINGS: Final = 4

_ZSTD_WINDOW_BYTES: Final = 8 * 1024 * 1024
"""What RFC 9659 lets an HTTP answer ask for."""


class TooLarge(Exception):
    """The decoded body has more bytes than the limit."""


class Undecodable(Exception):
    """A damaged body, or a coding that is not known here."""


def decoded(body: bytes, header: str, max_bytes: int) -> bytes:
    """`body` without the codings that `header` lists, the last one first (RFC 9110, section 8.4).

    A word that is no compression (nothing, `identity`, `aws-chunked`, `utf-8`, `binary`) changes nothing. Neither
    does a compression that the body does not begin like: a plain file that was labelled. Raises TooLarge, Undecodable.
    """
    codings = [word for word in (part.strip().lower() for part in header.split(",")) if word in _KNOWN]
    if len(codings) > MAX_CODINGS:
        raise Undecodable
    for coding in reversed(codings):
        decode = _KNOWN[coding]
        if decode is None:
            raise Undecodable
        body = decode(body, max_bytes)
    return body


def _gunzipped(body: bytes, max_bytes: int) -> bytes:
    if not body.startswith(b"\x1f\x8b"):
        return body
    whole = bytearray()
    while body.startswith(b"\x1f\x8b"):  # members may follow one another; padding behind them is left
        inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
        whole += _inflated(inflater, body, max_bytes - len(whole))
        body = inflater.unused_data
    return bytes(whole)


def _undeflated(body: bytes, max_bytes: int) -> bytes:
    """RFC 9110 means zlib's format; some servers send the bare stream."""
    if len(body) >= 2 and body[0] & 0x0F == zlib.DEFLATED and int.from_bytes(body[:2], "big") % 31 == 0:
        return _inflated(zlib.decompressobj(), body, max_bytes)
    try:
        return _inflated(zlib.decompressobj(-zlib.MAX_WBITS), body, max_bytes)
    except Undecodable:
        return body


def _inflated(inflater: zlib._Decompress, body: bytes, max_bytes: int) -> bytes:
    try:
        whole = inflater.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise Undecodable from error
    if len(whole) > max_bytes:
        raise TooLarge
    if not inflater.eof:
        raise Undecodable
    return whole


def _unbrotlied(body: bytes, max_bytes: int) -> bytes:
    """Brotli has no signature: a body that is none from its first byte on is taken as plain."""
    decompressor = brotli.Decompressor()
    whole = bytearray()
    try:
        whole += decompressor.process(body, output_buffer_limit=max_bytes + 1)
        while not decompressor.is_finished() and len(whole) <= max_bytes:
            more = decompressor.process(b"", output_buffer_limit=max_bytes + 1 - len(whole))
            if not more:
                raise Undecodable
            whole += more
    except brotli.error as error:
        if whole:
            raise Undecodable from error
        return body
    if len(whole) > max_bytes:
        raise TooLarge
    return bytes(whole)


def _unzstandarded(body: bytes, max_bytes: int) -> bytes:
    if not body.startswith(b"\x28\xb5\x2f\xfd"):
        return body
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
    try:
        with decompressor.stream_reader(io.BytesIO(body), read_across_frames=True) as reader:
            whole = reader.read(max_bytes + 1)
    except zstandard.ZstdError as error:
        raise Undecodable from error
    if len(whole) > max_bytes:
        raise TooLarge
    return whole


_KNOWN: Final[dict[str, Callable[[bytes, int], bytes] | None]] = {
    "gzip": _gunzipped,
    "x-gzip": _gunzipped,
    "deflate": _undeflated,
    "br": _unbrotlied,
    "zstd": _unzstandarded,
    # registered compressions that are not undone here
    "compress": None,
    "x-compress": None,
    "dcb": None,
    "dcz": None,
    "exi": None,
    "pack200-gzip": None,
}
