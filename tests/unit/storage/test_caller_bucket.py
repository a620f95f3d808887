"""Files put into a caller's own bucket: against moto's S3 on 127.0.0.1, which is reached only because it was opened."""

from __future__ import annotations

from collections.abc import Iterator

import boto3
import httpx
import pytest
from moto.server import ThreadedMotoServer

from retouch.edit import Bucket
from retouch.errors import ForbiddenAddress, StorageUnavailable
from retouch.storage.caller_bucket import CallerBuckets


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"aws_access_key_id": "theirs", "aws_secret_access_key": "their-secret"}
    boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1", **keys).create_bucket(
        Bucket="pictures"
    )
    yield f"http://{host}:{port}"
    server.stop()


def bucket(endpoint: str, **changes: str) -> Bucket:
    values = {"name": "pictures", "prefix": "my edits", **changes}
    return Bucket(endpoint, access_key_id="theirs", secret_access_key="their-secret", **values)


def test_a_file_is_put_there_and_the_link_reads_it(endpoint: str):
    opened = CallerBuckets([endpoint.removeprefix("http://")])
    link = opened.put(bucket(endpoint), "a.png", b"\x89PNG\0", "image/png")
    assert link.startswith(f"{endpoint}/pictures/my%20edits/a.png?")
    assert "their-secret" not in link
    read = httpx.get(link)
    assert (read.content, read.headers["content-type"]) == (b"\x89PNG\0", "image/png")


def test_without_a_prefix_the_file_is_at_the_top(endpoint: str):
    opened = CallerBuckets([endpoint.removeprefix("http://")])
    assert f"{endpoint}/pictures/a.png?" in opened.put(bucket(endpoint, prefix=""), "a.png", b"x", "image/png")


def test_a_bucket_at_a_private_address_is_not_contacted(endpoint: str):
    with pytest.raises(ForbiddenAddress):
        CallerBuckets().put(bucket(endpoint), "a.png", b"x", "image/png")


def test_a_bucket_that_refuses_says_so_without_any_key(endpoint: str):
    opened = CallerBuckets([endpoint.removeprefix("http://")])
    with pytest.raises(StorageUnavailable, match="answered with status 404") as refused:
        opened.put(bucket(endpoint, name="nobodys"), "a.png", b"x", "image/png")
    assert "their" not in refused.value.message


def test_a_bucket_that_is_away_says_so():
    with pytest.raises(StorageUnavailable, match="could not be reached"):
        CallerBuckets(["127.0.0.1:9"]).put(bucket("http://127.0.0.1:9"), "a.png", b"x", "image/png")
