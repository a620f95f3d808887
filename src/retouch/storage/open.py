"""Opens the store of images that the settings name."""

from __future__ import annotations

from pathlib import Path

from retouch.storage.blobs import Blobs
from retouch.storage.objects import LocalBlobs, link_secret
from retouch.storage.s3 import ObjectStoreBlobs


def open_blobs(storage_url: str | None, data_dir: Path) -> Blobs:
    """The folder `files` of the data directory, or the bucket that `storage_url` names (see `s3.py`).

    Raises StorageUnavailable when the data directory cannot be written and InvalidRequest for a URL that is
    not understood. A bucket is not contacted yet.
    """
    if storage_url is None:
        return LocalBlobs(data_dir / "files", link_secret(data_dir / "link-secret"))
    return ObjectStoreBlobs(storage_url)
