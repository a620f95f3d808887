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

_LINE_BREAK = re.compile(rb"[\r\n\t]+ *")
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def is_data_uri(text: str) -> bool:
    return text[:5].lower() == "data:"


def decode_data_uri(text: str, *, field: str) -> bytes:
    """The bytes of a base64 data URI; raises InvalidImage with `field`."""
    head, comma, payload = text.partition(",")
    if not comma or not head.rstrip().lower().endswith(";base64"):
        raise InvalidImage(f"The data URI in '{field}' must be base64: 'data:image/png;base64,…'.", field=field)
    data = unquote_to_bytes(payload) if "%" in payload else payload.encode()
    data = _LINE_BREAK.sub(b"", data.strip()).translate(_URL_SAFE)
    if b" " in data:
        data = _without_blanks(data, field)
    data = data.rstrip(b"=")
    try:
        return pybase64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidImage(f"The data URI in '{field}' is not valid base64.", field=field) from None


def _without_blanks(data: bytes, field: str) -> bytes:
    """A form decoder turns every `+` into a blank, layout puts blanks beside them; the length tells whether it fits."""
    if b"+" not in data and len(data) % 4 == 0:
        return data.replace(b" ", b"+")
    layout = data.replace(b" ", b"")
    if b"+" in data and len(layout) % 4 == 0:
        return layout
    raise InvalidImage(
        f"The data URI in '{field}' holds blanks where '+' may have been; write each '+' as %2B in a form.", field=field
    )
