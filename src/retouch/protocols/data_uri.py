"""The bytes in a data URI (RFC 2397), as browsers read them. It looks at no pixel and stores nothing.

Base64 that cannot be meant otherwise is repaired: missing padding, percent escapes, white space from line breaks,
the URL-safe alphabet, and a `+` that a form decoder has turned into a space. Everything else is refused, because bytes
that were guessed would be another image.
"""

from __future__ import annotations

import binascii
import re
from urllib.parse import unquote_to_bytes

import pybase64

from retouch.errors import InvalidImage

MANY_BLANKS = 8
"""So many irregular ones are no accident of layout; a lost `+` stands in every 64 characters on average."""

_LINE_BREAK = re.compile(rb"[\r\n\t]+( *)")
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def is_data_uri(text: str) -> bool:
    return text[:5].lower() == "data:"


def decode_data_uri(text: str, *, field: str) -> bytes:
    """The bytes of a base64 data URI; raises InvalidImage with `field`."""
    head, comma, payload = text.partition(",")
    if not comma or not head.rstrip().lower().endswith(";base64"):
        raise InvalidImage(f"The data URI in '{field}' must be base64: 'data:image/png;base64,…'.", field=field)
    data = unquote_to_bytes(payload) if "%" in payload else payload.encode()
    data = _without_line_breaks(data).translate(_URL_SAFE)
    if b" " in data:
        data = _without_blanks(data, field)
    if not _is_whole(data):
        raise InvalidImage(f"The data URI in '{field}' is cut off: its base64 ends within a byte.", field=field)
    data = data.rstrip(b"=")
    try:
        return pybase64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidImage(f"The data URI in '{field}' is not valid base64.", field=field) from None


def _without_line_breaks(data: bytes) -> bytes:
    """Without breaks, and without the indentation behind them where every line has the same."""
    data = data.strip(b"\r\n\t")
    indentations = set(_LINE_BREAK.findall(data))
    return _LINE_BREAK.sub(b"" if len(indentations) == 1 else rb"\1", data)


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
    possible = [candidate for candidate in (layout, restored) if _is_whole(candidate)]
    if len(possible) == 1:
        return possible[0]
    *distances, _ = map(len, data.split(b" "))
    if possible and len(distances) >= MANY_BLANKS and len(set(distances)) > 1:
        return restored
    raise InvalidImage(
        f"The data URI in '{field}' holds blanks where '+' may have been; write each '+' as %2B in a form.", field=field
    )


def _is_whole(data: bytes) -> bool:
    """Whether the length is one that base64 can have: a multiple of four with its padding, or no remainder of one."""
    return len(data) % 4 == 0 if data.endswith(b"=") else len(data) % 4 != 1
