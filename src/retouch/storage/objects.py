"""Stored blobs: their keys, what a folder and a bucket have in common, and the folder of the data directory.

A key carries everything a store must know about a blob besides its bytes:

    uploads/2026112804/1795838405-5f0c…32 hex digits…a1_cat.png
    folder  hour       expiry     random               name suffix

The expiry (unix seconds) and its hour (UTC) are in the key so that they survive a restart in every store
and a sweep looks into the hours that have begun instead of at every blob; what never expires lies in the
hour `keep`. The suffix tells the media type. A put is atomic in every store: readers see the whole blob or none.
Buckets and their links are in `s3.py`; the files of the folder are served by `server/app.py`.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlencode, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore

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


# --- what every store does

_DISK_FULL: Final = re.compile(r"(?:os error |Errno )(?:28|27|122)\b")
"""ENOSPC, EFBIG, EDQUOT; obstore's words, Python's."""

_DELETE_BATCH: Final = 1000  # S3's limit for one bulk delete

utc_now: Final = partial(datetime.now, UTC)


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
                listed = obstore.list_with_delimiter(self._store, f"{folder}/")
                for prefix in listed["common_prefixes"]:
                    hour = prefix.rstrip("/").rpartition("/")[2]
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


# --- the folder of the data directory

SECRET_BYTES: Final = 32

_LINK_PATH: Final = re.compile(rf"/files/({KEY.pattern})")
_SIGNATURE: Final = re.compile(r"[0-9a-f]{64}")
_UNIX_SECONDS: Final = re.compile(r"[0-9]{1,11}")


class LocalBlobs(StoredObjects):
    """`Blobs` in `folder`, which is made if it is not there, read through links that we sign ourselves.

    A link names the key, the second it ends and an HMAC over both; `secret` is all it takes to make one. A put returns
    when the bytes and their name are on the disk, so that no row ever names a file that a power cut took; previews are
    exempt.
    """

    def __init__(self, folder: Path, secret: bytes, *, clock: Callable[[], datetime] = utc_now) -> None:
        assert len(secret) >= SECRET_BYTES, "a short secret can be guessed"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _fsync(folder.parent)  # holds the name of the folder, which may be new
            # Folders stay until their hour is swept: one that went and came again would have an unflushed name.
            store = LocalStore(folder, automatic_cleanup=False)
        except OSError as error:
            raise StorageUnavailable(f"The folder for images cannot be made: {error.strerror}.") from error
        super().__init__(store, keeps_media_types=False, clock=clock)
        self._folder = folder
        self._secret = secret
        self._syncing = ThreadPoolExecutor(16, thread_name_prefix="sync")
        self._synced_hours: dict[Path, Path] = {}  # the last one of each folder whose own name is on the disk

    def _read(self, key: str) -> bytes:
        """Without the store's own threads, whose turn costs more than the file on a busy machine."""
        return (self._folder / key).read_bytes()

    def _write_file(self, key: str, source: Path, kept: Attributes | None) -> None:  # noqa: ARG002 - see the store
        """By the system's own copy, which needs no memory, and whole or not at all."""
        place = self._folder / key
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = place.with_name(f"{place.name}#{secrets.token_hex(8)}")  # no key has a #, so it is never listed
        try:
            shutil.copyfile(source, draft)
            draft.replace(place)
        finally:
            draft.unlink(missing_ok=True)

    def _size(self, key: str) -> int:
        return (self._folder / key).stat().st_size

    def _read_parts(self, key: str, part_bytes: int) -> Iterator[bytes]:
        with (self._folder / key).open("rb", buffering=0) as file:
            while part := file.read(part_bytes):
                yield part

    def sync(self, keys: Iterable[str]) -> None:
        places = []
        for key in keys:
            read_key(key)
            places.append(self._folder / key)
        # A power cut takes what is not flushed: of a file its bytes, its name, which the folder of its hour holds, and
        # once the names of a new hour and of the folder above it.
        hours = list(dict.fromkeys(place.parent for place in places))
        places += hours
        new = [hour.parent for hour in hours if self._synced_hours.get(hour.parent) != hour]
        places += [*new, self._folder] if new else []
        if not places:
            return
        with storage_errors("written"):
            # All at once: a disk that several ask to flush its cache does that once for all of them.
            others = [self._syncing.submit(_fsync, place) for place in places[1:]]
            _fsync(places[0])
            for other in others:
                other.result()
        self._synced_hours |= {hour.parent: hour for hour in hours}

    def link(self, key: str, *, ttl_s: float, base_url: str) -> str:
        read_key(key)
        expires = math.ceil((self._clock() + timedelta(seconds=ttl_s)).timestamp())
        query = urlencode({"expires": expires, "signature": self._sign(key, str(expires))})
        return f"{base_url}/files/{key}?{query}"

    def verify(self, key: str, expires: str, signature: str, now: datetime) -> bool:
        """Whether a link's `expires` and `signature`, as it has them, allow reading `key` at `now`.

        Anything malformed is False. The comparison takes the same time whatever is wrong.
        """
        if not _UNIX_SECONDS.fullmatch(expires) or not _SIGNATURE.fullmatch(signature):
            return False
        genuine = hmac.compare_digest(self._sign(key, expires), signature)
        return genuine and now.timestamp() < int(expires) and KEY.fullmatch(key) is not None

    def key_of_link(self, url: str, *, base_url: str | None = None) -> str | None:  # noqa: ARG002 - see below
        """The signature alone decides: callers reach this server by many names, and a proxy may change them."""
        try:
            parts = urlsplit(url)
            query = parse_qs(parts.query, strict_parsing=True)
        except ValueError:
            return None
        path = _LINK_PATH.search(parts.path)
        if path is None or path.end() != len(parts.path) or parts.scheme not in ("http", "https"):
            return None
        expires, signature = query.get("expires", []), query.get("signature", [])
        if len(expires) != 1 or len(signature) != 1:
            return None
        genuine = self.verify(path[1], expires[0], signature[0], self._clock())
        return path[1] if genuine else None

    def _sign(self, key: str, expires: str) -> str:
        return hmac.new(self._secret, f"{key}\n{expires}".encode(), hashlib.sha256).hexdigest()

    def _forget_hour(self, place: str) -> None:
        shutil.rmtree(self._folder / place, ignore_errors=True)


def _fsync(place: Path) -> None:
    try:
        descriptor = os.open(place, os.O_RDONLY)
    except FileNotFoundError:  # deleted meanwhile
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_secret(path: Path) -> bytes:
    """The secret kept in `path`, made at first use, readable by its owner only.

    Safe when several processes start at once: the first one's secret wins. Raises StorageUnavailable.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
            try:
                descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(secrets.token_bytes(SECRET_BYTES))
                    file.flush()
                    os.fsync(file.fileno())
                with suppress(FileExistsError):
                    os.link(draft, path)  # appears whole, and never over another process's secret
            finally:
                draft.unlink(missing_ok=True)
        secret = path.read_bytes()
    except OSError as error:
        raise StorageUnavailable(f"The secret for links cannot be kept: {error.strerror}.") from error
    if len(secret) < SECRET_BYTES:
        raise StorageUnavailable(f"The file '{path.name}' in the data folder is damaged; delete it to make a new one.")
    return secret
