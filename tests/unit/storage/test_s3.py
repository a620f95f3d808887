"""What is particular to buckets: the URL that names them, presigned links, and a bucket out of reach."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from retouch.errors import InvalidRequest, StorageUnavailable
from retouch.storage.s3 import MAX_LINK_S, ObjectStoreBlobs

KEY = "outputs/keep/" + "0" * 32 + ".png"


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret")


def signature_of(url: str, secret: str) -> str:
    """What Amazon's own library would have signed this presigned URL with."""
    parts = urlsplit(url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    signer = S3SigV4QueryAuth(Credentials("testing", secret), "s3", "us-east-1")
    unsigned = "&".join(pair for pair in parts.query.split("&") if not pair.startswith("X-Amz-Signature"))
    request = AWSRequest("GET", f"{parts.scheme}://{parts.netloc}{parts.path}?{unsigned}")
    request.context["timestamp"] = query["X-Amz-Date"]
    request.headers["host"] = parts.netloc
    canonical = signer.canonical_request(request)
    return str(signer.signature(signer.string_to_sign(request, canonical), request))


class _Bucket(http.server.BaseHTTPRequestHandler):
    """Answers like a bucket whose every object exists: 206 for a good signature, else 403."""

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        url = f"http://{self.headers['Host']}{self.path}"
        good = "X-Amz-Signature" in query and signature_of(url, "testing-secret") == query["X-Amz-Signature"]
        if good:
            begun = datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            good = begun + timedelta(seconds=int(query["X-Amz-Expires"])) > self.server.now
        self.send_response(206 if good else 403)
        self.send_header("Content-Length", "1")
        self.end_headers()
        self.wfile.write(b"x")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def bucket() -> Iterator[http.server.HTTPServer]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Bucket)
    server.requests, server.now = [], datetime.now(UTC)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_presigned_link_is_ours_as_long_as_the_bucket_says_so(bucket: http.server.HTTPServer) -> None:
    blobs = ObjectStoreBlobs(f"s3://b/pre?endpoint=http://127.0.0.1:{bucket.server_port}&region=us-east-1")
    link = blobs.link(KEY, ttl_s=60, base_url="")
    assert blobs.key_of_link(link) == KEY
    assert blobs.key_of_link(link[:-1] + ("0" if link[-1] != "0" else "1")) is None
    assert blobs.key_of_link(link.replace("Expires=60", "Expires=6000")) is None
    assert blobs.key_of_link(link.partition("?")[0]) is None
    bucket.now += timedelta(seconds=61)
    assert blobs.key_of_link(link) is None


def test_a_link_that_points_elsewhere_is_not_even_tried(bucket: http.server.HTTPServer) -> None:
    blobs = ObjectStoreBlobs(f"s3://b/pre?endpoint=http://127.0.0.1:{bucket.server_port}&region=us-east-1")
    link = blobs.link(KEY, ttl_s=60, base_url="")
    for changed in (
        link.replace("/b/pre/", "/other/pre/"),
        link.replace("/b/pre/", "/b/"),
        link.replace("127.0.0.1", "localhost"),
        link.replace("http://", "http://user@"),
        link.replace("/b/pre/", "/b/pre/../pre/"),
        link.replace(KEY, "outputs/keep/x.png"),
    ):
        assert blobs.key_of_link(changed) is None
    assert bucket.requests == []


def test_links_may_name_another_address_than_this_server_uses() -> None:
    blobs = ObjectStoreBlobs(
        "s3://b/p?endpoint=http://minio:9000&public_endpoint=https://files.example.com&region=eu-1"
    )
    assert blobs.link(KEY, ttl_s=60, base_url="").startswith(f"https://files.example.com/b/p/{KEY}?")


def test_a_link_lives_at_most_a_week() -> None:
    blobs = ObjectStoreBlobs("s3://b?region=eu-1")
    assert f"X-Amz-Expires={MAX_LINK_S}&" in blobs.link(KEY, ttl_s=10**9, base_url="")
    assert "X-Amz-Expires=1&" in blobs.link(KEY, ttl_s=0, base_url="")


def test_a_bucket_out_of_reach_is_reported_without_its_address() -> None:
    blobs = ObjectStoreBlobs("s3://b?endpoint=http://127.0.0.1:9&region=eu-1")
    with pytest.raises(StorageUnavailable) as caught:
        blobs.put(b"x", "image/png", folder="uploads")
    assert "127.0.0.1" not in caught.value.message
    assert caught.value.retryable


@pytest.mark.parametrize(
    "url",
    [
        "",
        "file:///tmp/x",
        "http://bucket",
        "s3://",
        "s3://key:secret@bucket",
        "s3://bucket?access_key_id=x",
        "s3://bucket?colour=red",
        "gs://bucket?region=x",
        "memory://",
    ],
)
def test_a_url_that_is_not_understood_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ObjectStoreBlobs(url)
    assert caught.value.field == "storage"


def test_the_other_clouds_are_opened_by_their_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    ObjectStoreBlobs("gs://bucket/prefix")
    with pytest.raises(InvalidRequest, match="Account"):
        ObjectStoreBlobs("az://container/prefix")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    blobs = ObjectStoreBlobs("az://container/prefix")
    assert f"account.blob.core.windows.net/container/prefix/{KEY}?" in blobs.link(KEY, ttl_s=60, base_url="")
