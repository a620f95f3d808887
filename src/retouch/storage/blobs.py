"""Stored bytes, behind one small interface; a local folder and an object store implement it.

A blob is immutable and named by a key such as `outputs/2026…/x.png` (see `objects.py`). This module knows nothing of
jobs or HTTP; links are absolute URLs that need no key to read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Blob:
    """A stored object: its bytes and how to name them to a reader. `expires_at` None keeps it."""

    key: str
    data: bytes
    media_type: str
    expires_at: datetime | None = None


class Blobs(Protocol):
    """Where uploads, outputs and previews live.

    Every method is synchronous and thread-safe. Failures of the store itself raise StorageUnavailable
    (disk full, bucket out of reach); a missing or expired key raises UnknownFile.
    """

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
        """Store `data` and return its new, unguessable key `folder/<random>[_name].<suffix>`.

        folder: `uploads`, `outputs` or `previews`. ttl_s: life in seconds; None keeps it until deleted.
        sync: do not return before the blob survives a power cut; False leaves that to a later `sync`.
        A failed put leaves nothing behind.
        """

    def sync(self, keys: Iterable[str]) -> None:
        """Return when these blobs survive a power cut. Keys that are gone meanwhile are no error."""

    def reserve(self, media_type: str, *, folder: str, name: str | None = None, ttl_s: float | None = None) -> str:
        """A new key as `put` makes it, for bytes that come later; until then there is no such blob."""

    def fill(self, key: str, data: bytes | Path) -> None:
        """Store the bytes, or the file, under a reserved key. Filling it again replaces them.

        Raises UnknownFile for a key that is not ours or has expired. A failed fill leaves nothing behind.
        """

    def get(self, key: str) -> Blob: ...

    def size(self, key: str) -> int:
        """Bytes of the blob, without reading them."""

    def read_parts(self, key: str, part_bytes: int) -> Iterator[bytes]:
        """The blob in order, in parts of exactly `part_bytes`, the last one shorter: never the whole in memory.

        Raises like `get`, at the first part or at a later one.
        """

    def delete(self, key: str) -> None:
        """Remove the blob; a key that is already gone is no error."""

    def link(self, key: str, *, ttl_s: float, base_url: str) -> str:
        """An absolute URL that reads the blob without a key until `ttl_s` from now.

        base_url: this server as the caller sees it, without a trailing slash; used by the local store
        (`{base_url}/files/{key}?expires=…&signature=…`), ignored by an object store that presigns.
        """

    def key_of_link(self, url: str, *, base_url: str | None = None) -> str | None:
        """The key behind one of our own links, or None for any other URL or a bad signature."""

    def sweep(self, now: datetime) -> int:
        """Delete what has expired by `now`; returns how many blobs went."""

    def keys(self, folder: str) -> Iterator[str]: ...


DEFAULT_TTL_S = timedelta(days=7).total_seconds()
"""Life of outputs and uploads when neither the caller nor a setting names one."""
