"""What every store of images promises, run on a folder and on a bucket (moto's S3 on 127.0.0.1)."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from retouch.errors import UnknownFile
from retouch.storage.blobs import Blobs
from retouch.storage.objects import LocalBlobs
from retouch.storage.s3 import ObjectStoreBlobs

BASE_URL = "http://retouch.test:8000"
NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **time: float) -> None:
        self.now += timedelta(**time)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    patch = pytest.MonkeyPatch()
    patch.setenv("AWS_ACCESS_KEY_ID", "testing")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret")
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
    patch.undo()


@pytest.fixture(params=["folder", "bucket"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Blobs:
    if request.param == "folder":
        return LocalBlobs(tmp_path / "files", b"s" * 32, clock=clock)
    endpoint = request.getfixturevalue("s3_endpoint")
    name = re.sub("[^a-z0-9]+", "-", tmp_path.name.lower()).strip("-")
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket=name)
    return ObjectStoreBlobs(f"s3://{name}/some/prefix?endpoint={endpoint}&region=us-east-1", clock=clock)


def test_what_was_put_is_read_back(blobs: Blobs) -> None:
    key = blobs.put(b"\x89PNG\0\xff", "image/png", folder="uploads")
    blob = blobs.get(key)
    assert (blob.key, blob.data, blob.media_type, blob.expires_at) == (key, b"\x89PNG\0\xff", "image/png", None)
    assert isinstance(blob.data, bytes)


@pytest.mark.parametrize("size", [0, 1, 6 * 1024 * 1024])
def test_any_size_is_kept(blobs: Blobs, size: int) -> None:
    assert len(blobs.get(blobs.put(b"x" * size, "image/png", folder="outputs")).data) == size


@pytest.mark.parametrize("size", [0, 1, 48, 49, 6 * 1024 * 1024 + 1])
@pytest.mark.parametrize("part_bytes", [48, 64 * 1024])
def test_a_blob_is_read_in_parts_of_exactly_the_size_asked_for(blobs: Blobs, size: int, part_bytes: int) -> None:
    if part_bytes == 48:
        size %= 10_000
    data = bytes(range(251)) * (size // 251) + bytes(size % 251)
    key = blobs.put(data, "image/png", folder="uploads")
    parts = list(blobs.read_parts(key, part_bytes))
    assert b"".join(parts) == data
    assert all(len(part) == part_bytes for part in parts[:-1])
    assert blobs.size(key) == size


def test_neither_size_nor_parts_are_reported_of_a_blob_that_is_gone(blobs: Blobs) -> None:
    key = blobs.put(b"x", "image/png", folder="uploads")
    blobs.delete(key)
    with pytest.raises(UnknownFile):
        blobs.size(key)
    with pytest.raises(UnknownFile):
        list(blobs.read_parts(key, 64))


@pytest.mark.parametrize(
    ("media_type", "kept"),
    [
        ("image/jpeg", "image/jpeg"),
        ("image/webp", "image/webp"),
        ("IMAGE/PNG; x=y", "image/png"),
        ("text/html", "application/octet-stream"),
        ("image/svg+xml", "application/octet-stream"),
        ("nonsense", "application/octet-stream"),
    ],
)
def test_the_media_type_is_kept_unless_a_browser_would_run_it(blobs: Blobs, media_type: str, kept: str) -> None:
    assert blobs.get(blobs.put(b"x", media_type, folder="uploads")).media_type == kept


@pytest.mark.parametrize("from_file", [False, True])
def test_a_reserved_key_is_no_blob_until_it_is_filled(blobs: Blobs, tmp_path: Path, from_file: bool) -> None:
    key = blobs.reserve("image/png", folder="uploads", name="a.png", ttl_s=60)
    with pytest.raises(UnknownFile):
        blobs.get(key)
    bytes_of_a_large_file = bytes(range(256)) * 50_000
    (tmp_path / "source").write_bytes(bytes_of_a_large_file)
    blobs.fill(key, tmp_path / "source" if from_file else bytes_of_a_large_file)
    assert blobs.get(key).data == bytes_of_a_large_file
    assert blobs.get(key).media_type == "image/png"


def test_a_reserved_key_cannot_be_filled_once_it_has_expired(blobs: Blobs, clock: Clock) -> None:
    key = blobs.reserve("image/png", folder="uploads", ttl_s=60)
    clock.forward(seconds=60)
    with pytest.raises(UnknownFile):
        blobs.fill(key, b"x")
    assert list(blobs.keys("uploads")) == []


def test_two_puts_of_the_same_bytes_are_two_blobs(blobs: Blobs) -> None:
    assert blobs.put(b"x", "image/png", folder="uploads") != blobs.put(b"x", "image/png", folder="uploads")


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("My cat.png", "_My-cat.png"),
        ("../../etc/passwd", ".png"),
        ("..", ".png"),
        ("é/\0\\:?*<>|", ".png"),
        ("a" * 500, "_" + "a" * 64 + ".png"),
        ("", ".png"),
        ("-rf", "_rf.png"),
        ("x.tar.gz", "_x-tar.png"),
    ],
)
def test_a_name_is_only_an_ornament_of_the_key(blobs: Blobs, name: str, end: str) -> None:
    key = blobs.put(b"x", "image/png", folder="uploads", name=name)
    assert re.fullmatch(r"uploads/keep/[0-9a-f]{32}(_[A-Za-z0-9_-]{1,64})?\.png", key)
    assert key.endswith(end)
    assert blobs.get(key).data == b"x"


def test_a_deleted_blob_is_gone_and_deleting_again_is_no_error(blobs: Blobs) -> None:
    key = blobs.put(b"x", "image/png", folder="uploads")
    blobs.delete(key)
    with pytest.raises(UnknownFile):
        blobs.get(key)
    blobs.delete(key)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "uploads",
        "uploads/../../etc/passwd",
        "/etc/passwd",
        "../link-secret",
        "files/uploads/keep/" + "0" * 32 + ".png",
        "uploads/keep/" + "0" * 32,
        "uploads/keep/" + "0" * 32 + ".html",
        "uploads/keep/" + "0" * 32 + ".png/",
        "uploads/keep/" + "0" * 32 + ".png\n",
        "uploads/keep/" + "0" * 32 + ".png\0",
        "uploads//" + "0" * 32 + ".png",
        "secrets/keep/" + "0" * 32 + ".png",
        "uploads/%2e%2e/" + "0" * 32 + ".png",
        "uploads/2026030412/../" + "0" * 32 + ".png",
        "uploads/keep/" + "0" * 31 + "٣.png",
    ],
)
def test_a_key_that_the_store_did_not_make_is_an_unknown_file(blobs: Blobs, key: str) -> None:
    with pytest.raises(UnknownFile):
        blobs.get(key)
    with pytest.raises(UnknownFile):
        blobs.delete(key)
    with pytest.raises(UnknownFile):
        blobs.link(key, ttl_s=60, base_url=BASE_URL)


def test_a_well_formed_key_of_nothing_is_an_unknown_file(blobs: Blobs) -> None:
    with pytest.raises(UnknownFile):
        blobs.get("uploads/keep/" + "0" * 32 + ".png")


def test_an_expired_blob_cannot_be_read_even_before_it_is_swept(blobs: Blobs, clock: Clock) -> None:
    key = blobs.put(b"x", "image/png", folder="outputs", ttl_s=60)
    assert blobs.get(key).expires_at == NOON + timedelta(seconds=60)
    clock.forward(seconds=59)
    assert blobs.get(key).data == b"x"
    clock.forward(seconds=1)
    with pytest.raises(UnknownFile, match="expired"):
        blobs.get(key)


def test_a_sweep_deletes_what_has_expired_and_nothing_else(blobs: Blobs, clock: Clock) -> None:
    lives = [30, 90, 3600, 86_400, 7 * 86_400, None]
    keys = [blobs.put(b"x", "image/png", folder="outputs", ttl_s=life) for life in lives]
    keys.append(blobs.put(b"x", "image/png", folder="uploads", ttl_s=30))
    assert blobs.sweep(clock.now) == 0
    assert blobs.sweep(NOON + timedelta(seconds=30)) == 2
    assert set(blobs.keys("outputs")) == set(keys[1:6])
    assert list(blobs.keys("uploads")) == []
    assert blobs.sweep(NOON + timedelta(days=1)) == 3
    assert blobs.sweep(NOON + timedelta(days=1)) == 0
    assert set(blobs.keys("outputs")) == set(keys[4:6])
    assert blobs.sweep(NOON + timedelta(days=400)) == 1
    assert list(blobs.keys("outputs")) == [keys[5]]


def test_keys_are_listed_by_folder(blobs: Blobs) -> None:
    upload, output = (blobs.put(b"x", "image/png", folder=folder) for folder in ("uploads", "outputs"))
    assert list(blobs.keys("uploads")) == [upload]
    assert list(blobs.keys("outputs")) == [output]
    assert list(blobs.keys("previews")) == []


def test_a_link_leads_back_to_its_key(blobs: Blobs) -> None:
    key = blobs.put(b"x", "image/png", folder="outputs", ttl_s=600)
    link = blobs.link(key, ttl_s=60, base_url=BASE_URL)
    assert link.startswith("http://")
    assert blobs.key_of_link(link, base_url=BASE_URL) == key
    assert blobs.key_of_link(link) == key


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "http://",
        "https://example.com/cat.png",
        "http://[::1",
        "http://e.com/files/uploads/keep/x.png?expires=1",
    ],
)
def test_another_servers_url_is_not_ours(blobs: Blobs, url: str) -> None:
    assert blobs.key_of_link(url) is None


def test_blobs_are_put_and_read_from_many_threads(blobs: Blobs) -> None:
    def put_and_get(number: int) -> bytes:
        return blobs.get(blobs.put(str(number).encode(), "image/png", folder="previews", ttl_s=number)).data

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(put_and_get, range(1, 41))) == [str(number).encode() for number in range(1, 41)]


def test_a_bucket_presigns_links_that_need_no_key(s3_endpoint: str) -> None:
    boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1").create_bucket(Bucket="readers")
    blobs = ObjectStoreBlobs(f"s3://readers?endpoint={s3_endpoint}&region=us-east-1")
    link = blobs.link(blobs.put(b"image", "image/webp", folder="outputs"), ttl_s=60, base_url=BASE_URL)
    with urllib.request.urlopen(link) as answer:
        assert answer.read() == b"image"
        assert answer.headers["Content-Type"] == "image/webp"
