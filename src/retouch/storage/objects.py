"""Blobs on any obstore store: their keys, and put, get, delete, list, sweep.

A key carries everything a store must know about a blob besides its bytes:

    uploads/2026112804/1795838405-5f0c…32 hex digits…a1_cat.png
    folder  hour       expiry     random               name suffix

The expiry (unix seconds) and its hour (UTC) are in the key so that they survive a restart in every store
and a sweep looks into the hours that have begun instead of at every blob; what never expires lies in the
hour `keep`. The suffix tells the media type. A put is atomic in every store: readers see the whole blob or none.
How readers get a link is not decided here; `local.py` and `s3.py` add that.
"""

from __future__ import annotations

import hashlib
import math
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import obstore
from obstore.exceptions import BaseError

from retouch.errors import StorageUnavailable, UnknownFile
from retouch.storage.blobs import Blob

if TYPE_CHECKING:
    from obstore import Attributes
    from obstore.store import ObjectStore

# --- keys

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


# --- blobs

_DISK_FULL: Final = re.compile(r"(?:os error |Errno )(?:28|27|122)\b")
"""ENOSPC, EFBIG, EDQUOT; obstore's words, Python's."""

_DELETE_BATCH: Final = 1000  # S3's limit for one bulk delete

UTC_CLOCK: Final = partial(datetime.now, UTC)


class StoredObjects:
    """The part of `Blobs` that is the same for a folder and for a bucket.

    keeps_media_types: whether the store can keep a Content-Type beside the bytes (a folder cannot).
    """

    def __init__(self, store: ObjectStore, *, keeps_media_types: bool, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._keeps_media_types = keeps_media_types
        self._clock = clock

    def put(
        self,
        data: bytes,
        media_type: str,
        *,
        folder: str,
        name: str | None = None,
        ttl_s: float | None = None,
        sync: bool = True,
    ) -> str:
        key = self.reserve(media_type, folder=folder, name=name, ttl_s=ttl_s)
        self._write(key, data)
        if sync and folder != "previews":
            self.sync([key])
        return key

    def sync(self, keys: Iterable[str]) -> None:
        """Nothing to wait for: a bucket answers a put when the blob is kept."""

    def reserve(self, media_type: str, *, folder: str, name: str | None = None, ttl_s: float | None = None) -> str:
        expires_at = None if ttl_s is None else self._clock() + timedelta(seconds=ttl_s)
        return new_key(folder, media_type, name, expires_at)

    def fill(self, key: str, data: bytes | Path) -> None:
        self._write(key, data)
        self.sync([key])

    def _write(self, key: str, data: bytes | Path) -> None:
        facts = read_key(key)
        if facts.expired(self._clock()):
            raise UnknownFile(f"The file '{key}' has expired.")
        kept: Attributes | None = {"Content-Type": facts.media_type} if self._keeps_media_types else None
        with storage_errors("written"):
            if isinstance(data, Path):
                self._write_file(key, data, kept)
            else:
                # One part: an upload in parts could be left half done in a bucket, and blobs are small.
                obstore.put(self._store, key, data, attributes=kept, use_multipart=False)

    def _write_file(self, key: str, source: Path, kept: Attributes | None) -> None:
        """A file may be large and is read piece by piece."""
        obstore.put(self._store, key, source, attributes=kept, use_multipart=True)

    def get(self, key: str) -> Blob:
        with self._reading(key) as facts:
            data = self._read(key)
        return Blob(key, data, facts.media_type, facts.expires_at)

    def size(self, key: str) -> int:
        with self._reading(key):
            return self._size(key)

    def read_parts(self, key: str, part_bytes: int) -> Iterator[bytes]:
        with self._reading(key):
            yield from self._read_parts(key, part_bytes)

    @contextmanager
    def _reading(self, key: str) -> Iterator[KeyFacts]:
        """Turn what goes wrong while `key` is read into UnknownFile or StorageUnavailable."""
        facts = read_key(key)
        if facts.expired(self._clock()):
            raise UnknownFile(f"The file '{key}' has expired.")
        with storage_errors("read"):
            try:
                yield facts
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise
                raise UnknownFile(f"There is no file '{key}' here.") from None

    def _read(self, key: str) -> bytes:
        return obstore.get(self._store, key).bytes().to_bytes()

    def _size(self, key: str) -> int:
        return obstore.head(self._store, key)["size"]

    def _read_parts(self, key: str, part_bytes: int) -> Iterator[bytes]:
        held = bytearray()
        for arrived in obstore.get(self._store, key).stream(min_chunk_size=part_bytes):
            held += arrived
            whole = len(held) - len(held) % part_bytes
            for start in range(0, whole, part_bytes):
                yield bytes(held[start : start + part_bytes])
            del held[:whole]
        if held:
            yield bytes(held)

    def delete(self, key: str) -> None:
        read_key(key)
        with storage_errors("changed"):
            self._delete([key])

    def keys(self, folder: str) -> Iterator[str]:
        assert folder in FOLDERS, folder
        with storage_errors("read"):
            yield from self._keys_under(f"{folder}/")

    def sweep(self, now: datetime) -> int:
        swept = 0
        this_hour = hour_of(now)
        with storage_errors("changed"):
            for folder in FOLDERS:
                for hour in self._hours(folder):
                    if hour == KEEP or hour > this_hour:
                        continue
                    keys = list(self._keys_under(f"{folder}/{hour}/"))
                    expired = [key for key in keys if read_key(key).expired(now)]
                    for start in range(0, len(expired), _DELETE_BATCH):
                        self._delete(expired[start : start + _DELETE_BATCH])
                    swept += len(expired)
                    if hour < this_hour:
                        self._forget_hour(f"{folder}/{hour}")
        return swept

    def _forget_hour(self, place: str) -> None:
        """An hour is over and its blobs are deleted; a folder removes what an interrupted write left there."""

    def _hours(self, folder: str) -> list[str]:
        listed = obstore.list_with_delimiter(self._store, f"{folder}/")
        return [prefix.rstrip("/").rpartition("/")[2] for prefix in listed["common_prefixes"]]

    def _keys_under(self, prefix: str) -> Iterator[str]:
        """Keys in our grammar; whatever else lies in the folder or bucket is not ours to touch."""
        for chunk in obstore.list(self._store, prefix):
            for found in chunk:
                try:
                    read_key(found["path"])
                except UnknownFile:
                    continue
                yield found["path"]

    def _delete(self, keys: list[str]) -> None:
        try:
            obstore.delete(self._store, keys)
        except FileNotFoundError:
            for key in keys:  # another process was quicker with one of them; the others still have to go
                with suppress(FileNotFoundError):
                    obstore.delete(self._store, key)


@contextmanager
def storage_errors(action: str) -> Iterator[None]:
    """Turn a store's own failure into StorageUnavailable; its text may hold paths and stays in the cause."""
    try:
        yield
    except (BaseError, OSError) as error:
        if _DISK_FULL.search(str(error)):
            message = "The disk that stores images is full; nothing was stored."
        else:
            message = f"The store of images cannot be {action} right now."
        raise StorageUnavailable(message) from error
