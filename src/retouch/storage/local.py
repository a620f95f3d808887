"""Blobs in a folder of the data directory, read through links that we sign ourselves.

Links name the key, the second they end and an HMAC over both; the secret file is all it takes to make them.
It does not serve the files: `server/files.py` does, after `verify`. A put returns when the bytes and their name
are on the disk, so that no row ever names a file that a power cut took; previews are exempt.
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
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlencode, urlsplit

from obstore.store import LocalStore

from retouch.errors import StorageUnavailable
from retouch.storage.objects import KEY, UTC_CLOCK, StoredObjects, read_key, storage_errors

if TYPE_CHECKING:
    from obstore import Attributes

SECRET_BYTES: Final = 32

_LINK_PATH: Final = re.compile(rf"/files/({KEY.pattern})")
_SIGNATURE: Final = re.compile(r"[0-9a-f]{64}")
_UNIX_SECONDS: Final = re.compile(r"[0-9]{1,11}")


class LocalBlobs(StoredObjects):
    """`Blobs` in `folder`, which is made if it is not there. `secret` signs the links."""

    def __init__(self, folder: Path, secret: bytes, *, clock: Callable[[], datetime] = UTC_CLOCK) -> None:
        assert len(secret) >= SECRET_BYTES, "a short secret can be guessed"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            store = LocalStore(folder, automatic_cleanup=True)
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
        draft = place.with_name(f"{place.name}#{secrets.token_hex(8)}")
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
        places: list[Path] = []
        hours: list[Path] = []
        for key in keys:
            read_key(key)
            file = self._folder / key
            places.append(file)
            if file.parent not in hours:
                hours.append(file.parent)
        places += hours  # they hold the files' names
        places += {hour.parent for hour in hours if self._synced_hours.get(hour.parent) != hour}  # a new hour's name
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
            _create_secret(path)
        secret = path.read_bytes()
    except OSError as error:
        raise StorageUnavailable(f"The secret for links cannot be kept: {error.strerror}.") from error
    if len(secret) < SECRET_BYTES:
        raise StorageUnavailable(f"The file '{path.name}' in the data folder is damaged; delete it to make a new one.")
    return secret


def _create_secret(path: Path) -> None:
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(SECRET_BYTES))
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)  # appears whole, and never over another process's secret
    except FileExistsError:
        pass
    finally:
        draft.unlink(missing_ok=True)
