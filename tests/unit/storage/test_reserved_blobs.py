"""Keys that are given out before their bytes are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from retouch.errors import UnknownFile
from retouch.storage.open import open_blobs


def test_a_reserved_key_is_no_blob_until_it_is_filled(tmp_path: Path):
    blobs = open_blobs(None, tmp_path)
    key = blobs.reserve("image/png", folder="uploads", name="a.png", ttl_s=60)
    link = blobs.link(key, ttl_s=60, base_url="http://x")
    with pytest.raises(UnknownFile):
        blobs.get(key)
    blobs.fill(key, b"first")
    blobs.fill(key, b"second")
    assert blobs.get(key).data == b"second"
    assert blobs.key_of_link(link) == key


def test_a_file_is_stored_as_it_is(tmp_path: Path):
    blobs = open_blobs(None, tmp_path)
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 100_000)
    key = blobs.reserve("application/zip", folder="uploads", ttl_s=60)
    blobs.fill(key, source)
    assert blobs.get(key).data == source.read_bytes()


@pytest.mark.parametrize("key", ["../secrets", "uploads/x", "", "uploads/2020010100/1577836800-" + "0" * 32 + ".png"])
def test_only_living_keys_of_ours_can_be_filled(tmp_path: Path, key: str):
    with pytest.raises(UnknownFile):
        open_blobs(None, tmp_path).fill(key, b"x")
