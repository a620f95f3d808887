"""The grammar of blob keys, which carry everything a store must know about a blob besides its bytes.

    uploads/2026112804/1795838405-5f0c…32 hex digits…a1_cat.png
    folder  hour       expiry     random               name suffix

The expiry (unix seconds) and its hour (UTC) are in the key so that they survive a restart in every store
and a sweep looks into the hours that have begun instead of at every blob; what never expires lies in the
hour `keep`. The suffix tells the media type. Nothing here touches a store.
"""

from __future__ import annotations

import hashlib
import math
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from retouch.errors import UnknownFile

FOLDERS: Final = ("uploads", "outputs", "previews")
KEEP: Final = "keep"

_SUFFIXES: Final = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/avif": "avif",
    "image/bmp": "bmp",
    "image/tiff": "tiff",
    "application/json": "json",
    "application/zip": "zip",
    "text/plain": "txt",
    "application/octet-stream": "bin",
}
"""Every other type is kept as `bin`: a page or an SVG from a caller must not be served as one."""

_MEDIA_TYPES: Final = {suffix: media_type for media_type, suffix in _SUFFIXES.items()}

KEY: Final = re.compile(
    rf"(?P<folder>{'|'.join(FOLDERS)})/"
    rf"(?:{KEEP}/|[0-9]{{10}}/(?P<expiry>[0-9]{{1,11}})-)"
    r"[0-9a-f]{32}(?:_[A-Za-z0-9][A-Za-z0-9_-]{0,63})?"
    rf"\.(?P<suffix>{'|'.join(_MEDIA_TYPES)})"
)
"""The only keys any store ever reads or writes: no dots but one, no empty or relative parts, ASCII only."""


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """What a key says of its blob. `expires_at` None keeps it."""

    folder: str
    media_type: str
    expires_at: datetime | None

    def expired(self, now: datetime) -> bool:
        return self.expires_at is not None and self.expires_at <= now


def new_key(folder: str, media_type: str, name: str | None, expires_at: datetime | None) -> str:
    """An unguessable key; of `name` only letters, digits, `-` and `_` before its last dot are kept."""
    assert folder in FOLDERS, folder
    place = KEEP
    label = secrets.token_hex(16)
    if expires_at is not None:
        seconds = math.ceil(expires_at.timestamp())
        place = hour_of(datetime.fromtimestamp(seconds, UTC))
        label = f"{seconds}-{label}"
    suffix = _SUFFIXES.get(media_type.partition(";")[0].strip().lower(), "bin")
    stem = (name or "").rpartition(".")[0] or (name or "")
    word = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-_")[:64].rstrip("-_")
    if word:
        label += f"_{word}"
    return f"{folder}/{place}/{label}.{suffix}"


def part_key(key: str, number: int, expires_at: datetime) -> str:
    """The key of one part of a file that arrives in parts; the same three always give the same key."""
    folder = read_key(key).folder
    seconds = math.ceil(expires_at.timestamp())
    label = hashlib.sha256(f"{key}\n{number}".encode()).hexdigest()[:32]
    return f"{folder}/{hour_of(datetime.fromtimestamp(seconds, UTC))}/{seconds}-{label}.bin"


def read_key(key: str) -> KeyFacts:
    """Raises UnknownFile for anything that `new_key` could not have made."""
    match = KEY.fullmatch(key)
    if match is None:
        raise UnknownFile(f"There is no file '{key[:100]}' here.")
    expiry = match["expiry"]
    expires_at = None if expiry is None else datetime.fromtimestamp(int(expiry), UTC)
    return KeyFacts(match["folder"], _MEDIA_TYPES[match["suffix"]], expires_at)


def hour_of(moment: datetime) -> str:
    """The UTC hour as keys write it; hours compare as text in the order of time."""
    return moment.astimezone(UTC).strftime("%Y%m%d%H")
