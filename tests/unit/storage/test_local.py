"""What is particular to the local folder: signed links, the secret behind them, disks that fill up."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retouch.errors import StorageUnavailable, UnknownFile
from retouch.storage.objects import SECRET_BYTES, LocalBlobs, link_secret
from retouch.storage.open import open_blobs

NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
BASE_URL = "http://127.0.0.1:8000"


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path / "files", b"s" * 32, clock=lambda: NOON)


def parts_of(link: str) -> tuple[str, str, str]:
    """Key, expiry and signature, as the route that serves files gets them."""
    path, _, query = link.partition("?")
    expires, signature = (pair.partition("=")[2] for pair in query.split("&"))
    return path.partition("/files/")[2], expires, signature


def test_a_link_names_the_key_the_end_and_a_signature(blobs: LocalBlobs) -> None:
    key = blobs.put(b"x", "image/png", folder="outputs")
    link = blobs.link(key, ttl_s=60, base_url=BASE_URL)
    expires = int((NOON + timedelta(seconds=60)).timestamp())
    assert link.startswith(f"{BASE_URL}/files/{key}?expires={expires}&signature=")
    assert blobs.verify(*parts_of(link), now=NOON)


def test_a_link_ends_at_its_second(blobs: LocalBlobs) -> None:
    link = blobs.link(blobs.put(b"x", "image/png", folder="outputs"), ttl_s=60, base_url=BASE_URL)
    assert blobs.verify(*parts_of(link), now=NOON + timedelta(seconds=59.9))
    assert not blobs.verify(*parts_of(link), now=NOON + timedelta(seconds=60))


def test_a_changed_link_is_refused(blobs: LocalBlobs, tmp_path: Path) -> None:
    key = blobs.put(b"x", "image/png", folder="outputs")
    other = blobs.put(b"y", "image/png", folder="outputs")
    _, expires, signature = parts_of(blobs.link(key, ttl_s=60, base_url=BASE_URL))
    stranger = LocalBlobs(tmp_path / "other", b"t" * 32, clock=lambda: NOON)
    foreign = parts_of(stranger.link(key, ttl_s=60, base_url=BASE_URL))[2]
    for changed in (
        (other, expires, signature),
        (key, str(int(expires) + 1), signature),
        (key, "9" * 11, signature),
        (key, expires, foreign),
        (key, expires, signature[:-1] + ("0" if signature[-1] != "0" else "1")),
        (key, expires, signature.upper()),
        (key, expires, ""),
        (key, expires, "é" * 64),
        (key, "", signature),
        (key, "1e99", signature),
        (key, f" {expires}", signature),
        (key, f"{expires}.0", signature),
        (key, "٣" * 10, signature),
        ("../link-secret", expires, signature),
    ):
        assert not blobs.verify(*changed, now=NOON)
    assert blobs.verify(key, expires, signature, now=NOON)


@given(st.text(), st.text(), st.text())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_nonsense_is_never_a_link(blobs: LocalBlobs, key: str, expires: str, signature: str) -> None:
    assert not blobs.verify(key, expires, signature, now=NOON)
    assert blobs.key_of_link(f"http://x/files/{key}?expires={expires}&signature={signature}") is None


def test_our_link_is_known_whatever_host_the_caller_uses(blobs: LocalBlobs) -> None:
    key = blobs.put(b"x", "image/png", folder="outputs")
    link = blobs.link(key, ttl_s=60, base_url=BASE_URL)
    assert blobs.key_of_link(link, base_url="https://elsewhere.example") == key
    assert blobs.key_of_link(link.replace(BASE_URL, "https://edit.example.com/retouch")) == key


def test_a_link_of_ours_that_is_changed_or_over_is_not_ours(blobs: LocalBlobs, tmp_path: Path) -> None:
    key = blobs.put(b"x", "image/png", folder="outputs")
    link = blobs.link(key, ttl_s=60, base_url=BASE_URL)
    assert LocalBlobs(tmp_path / "files", b"s" * 32, clock=lambda: NOON + timedelta(60)).key_of_link(link) is None
    assert LocalBlobs(tmp_path / "files", b"t" * 32, clock=lambda: NOON).key_of_link(link) is None
    for changed in (
        link[:-1],
        link + "0",
        link.replace(".png", ".jpg"),
        link.replace("http://", "ftp://"),
        link.replace("/files/", "/other/"),
        link.replace("?", "/x?"),
        link.partition("&")[0],
        link + "&signature=" + "0" * 64,
        link + "&expires=99999999999",
        link.replace(".png?", ".png%00?"),
    ):
        assert blobs.key_of_link(changed) is None, changed


def test_the_secret_is_made_once_and_is_the_owners_only(tmp_path: Path) -> None:
    path = tmp_path / "data" / "link-secret"
    secret = link_secret(path)
    assert len(secret) == 32
    assert link_secret(path) == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["link-secret"]


def test_processes_that_start_at_once_get_one_secret(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        for trial in range(20):
            path = tmp_path / str(trial) / "link-secret"
            assert len(set(pool.map(lambda _, path=path: link_secret(path), range(16)))) == 1


def test_a_damaged_secret_is_reported(tmp_path: Path) -> None:
    (tmp_path / "link-secret").write_bytes(b"short")
    with pytest.raises(StorageUnavailable, match="damaged"):
        link_secret(tmp_path / "link-secret")


def test_a_restart_knows_the_blobs_the_links_and_the_expiries(tmp_path: Path) -> None:
    before = open_blobs(None, tmp_path)
    key = before.put(b"x", "image/png", folder="outputs", ttl_s=3600)
    link = before.link(key, ttl_s=60, base_url=BASE_URL)
    after = open_blobs(None, tmp_path)
    assert after.key_of_link(link) == key
    assert after.get(key) == before.get(key)
    assert after.sweep(datetime.now(UTC) + timedelta(hours=2)) == 1


def test_a_data_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageUnavailable):
        open_blobs(None, tmp_path / "file" / "data")
    with pytest.raises(StorageUnavailable):
        LocalBlobs(tmp_path / "file" / "files", b"s" * 32)


def test_a_folder_that_vanished_costs_its_blobs_and_not_the_server(blobs: LocalBlobs, tmp_path: Path) -> None:
    key = blobs.put(b"x", "image/png", folder="outputs")
    shutil.rmtree(tmp_path / "files")
    with pytest.raises(UnknownFile):
        blobs.get(key)
    assert list(blobs.keys("outputs")) == []
    assert blobs.sweep(NOON) == 0
    assert blobs.get(blobs.put(b"y", "image/png", folder="outputs")).data == b"y"


def test_the_files_are_closed_to_other_people(tmp_path: Path) -> None:
    open_blobs(None, tmp_path / "data").put(b"x", "image/png", folder="outputs")
    assert stat.S_IMODE((tmp_path / "data" / "files").stat().st_mode) == 0o700


def test_what_is_not_a_blob_is_left_alone(blobs: LocalBlobs, tmp_path: Path) -> None:
    blobs.put(b"x", "image/png", folder="outputs", ttl_s=1)
    (tmp_path / "files" / "outputs" / "README").write_text("mine")
    (tmp_path / "files" / "uploads").mkdir()
    (tmp_path / "files" / "uploads" / "notes.png").write_text("mine")
    assert len(list(blobs.keys("outputs"))) == 1
    assert blobs.sweep(NOON + timedelta(days=1)) == 1
    assert (tmp_path / "files" / "outputs" / "README").read_text() == "mine"
    assert list(blobs.keys("uploads")) == []


def test_a_sweep_clears_what_an_interrupted_write_left_and_the_empty_folders(blobs: LocalBlobs, tmp_path: Path) -> None:
    key = blobs.put(b"x", "image/png", folder="outputs", ttl_s=1)
    path = tmp_path / "files" / key
    path.with_name(f"{path.name}#1").write_bytes(b"half")
    assert blobs.sweep(NOON + timedelta(hours=1)) == 1
    assert list((tmp_path / "files" / "outputs").iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="limits of files are a matter of Unix")
def test_a_full_disk_is_reported_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """In a process whose files may not grow beyond 64 KiB, as on a disk with that much room."""
    program = """
import resource, sys
from pathlib import Path
from retouch.errors import StorageUnavailable
from retouch.storage.open import open_blobs
blobs = open_blobs(None, Path(sys.argv[1]))
first = blobs.put(b"before", "image/png", folder="uploads")
large = Path(sys.argv[1], "large")
large.write_bytes(b"x" * 10**7)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
for data in (b"x" * 10**6, large):
    try:
        blobs.fill(blobs.reserve("image/png", folder="uploads"), data)
    except StorageUnavailable as error:
        print(error.code, error.retryable, error.message)
second = blobs.put(b"after", "image/png", folder="uploads")
assert sorted(blobs.keys("uploads")) == sorted([first, second])
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "storage_unavailable True The disk that stores images is full; nothing was stored.\n" * 2
    assert sorted(path.stat().st_size for path in (tmp_path / "files").rglob("*") if path.is_file()) == [5, 6]


def test_a_store_that_refuses_is_reported_without_its_paths(blobs: LocalBlobs, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "files")
    (tmp_path / "files").write_text("a file where the folder was")
    with pytest.raises(StorageUnavailable) as caught:
        blobs.put(b"x", "image/png", folder="uploads")
    assert str(tmp_path) not in caught.value.message
    assert caught.value.retryable
    os.unlink(tmp_path / "files")


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The inodes of what was flushed to the disk, in order."""
    inodes: list[int] = []
    plain = os.fsync

    def counting(descriptor: int) -> None:
        inodes.append(os.fstat(descriptor).st_ino)
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", counting)
    return inodes


def test_a_folder_is_flushed_for_a_new_hour_only_whichever_others_are_written_between(
    blobs: LocalBlobs, tmp_path: Path, flushed: list[int]
) -> None:
    for folder in ("uploads", "outputs", "uploads", "outputs"):
        blobs.put(b"image", "image/png", folder=folder)
    folders = [(tmp_path / "files" / folder).stat().st_ino for folder in ("uploads", "outputs")]
    assert [flushed.count(each) for each in folders] == [1, 1]


def test_every_folder_on_the_way_to_the_first_blob_is_flushed(tmp_path: Path, flushed: list[int]) -> None:
    blobs = LocalBlobs(tmp_path / "data" / "files", bytes(SECRET_BYTES))
    place = tmp_path / "data" / "files" / blobs.put(b"image", "image/png", folder="uploads")
    way = [place, *(folder for folder in place.parents if folder.is_relative_to(tmp_path / "data"))]
    assert {each.stat().st_ino for each in way} <= set(flushed)


def test_a_deleted_blob_leaves_the_flushed_folder_of_its_hour_to_the_next(
    blobs: LocalBlobs, tmp_path: Path, flushed: list[int]
) -> None:
    first = tmp_path / "files" / blobs.put(b"image", "image/png", folder="uploads", ttl_s=60)
    hour = first.parent.stat().st_ino
    blobs.delete(first.relative_to(tmp_path / "files").as_posix())
    assert first.parent.stat().st_ino == hour
    assert flushed.count(hour) == 1
