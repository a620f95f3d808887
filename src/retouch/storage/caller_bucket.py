"""Puts a file into a bucket of the caller's own, with the caller's keys, over the guarded client.

The endpoint is the caller's word, so it is judged like every link a caller gives. Our own files are in `blobs.py`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Final

import httpx2
import obstore
import structlog
from obstore.exceptions import BaseError
from obstore.store import S3Store

from retouch.edit import Bucket, Notice, OutputImage
from retouch.errors import ForbiddenAddress, StorageUnavailable
from retouch.storage.addresses import OpenedAddresses
from retouch.storage.guard import Resolver, guarded_client, resolve_by_system

logger = structlog.get_logger(__name__)

TIMEOUT_S: Final = 20.0
"""For all tries together: a worker has few threads that store images, and a slow bucket must not hold up others."""

TRIES: Final = 3
LINK_LIFE: Final = timedelta(days=7)
"""Of the link that reads the file; the longest that S3's signatures allow."""

_REGION: Final = re.compile(r"://(?:[^/]+\.)?s3[.-](?:dualstack\.)?([a-z]{2}(?:-[a-z]+)+-\d)\.amazonaws\.com")


class CallerBuckets:
    """Thread-safe; nothing is shared between two files. allow_private: as for images."""

    def __init__(self, allow_private: Sequence[str] = (), *, resolver: Resolver = resolve_by_system) -> None:
        self._opened = OpenedAddresses.parse(allow_private)
        self._resolver = resolver

    def deliver(
        self, bucket: Bucket, job_id: str, number: int, image: OutputImage, data: bytes
    ) -> tuple[OutputImage, tuple[Notice, ...]]:
        """Image `number` of a job, from 1 on, with its link there, or with ours and a notice."""
        suffix = image.blob.rpartition(".")[2]
        name = f"{job_id}.{suffix}" if number == 1 else f"{job_id}-{number}.{suffix}"
        try:
            return replace(image, delivered_url=self.put(bucket, name, data, image.media_type)), ()
        except (ForbiddenAddress, StorageUnavailable) as error:
            logger.warning("an image was not put into its caller's bucket", job=job_id, reason=error.code)
            detail = f"The image is not in the bucket: {error.message} Its link leads to this server."
            return image, (Notice("bucket", "ignored", detail),)

    def put(self, bucket: Bucket, name: str, data: bytes, media_type: str) -> str:
        """Store the file as `prefix/name` and return a link that reads it without a key for `LINK_LIFE`.

        Raises ForbiddenAddress, and StorageUnavailable for a bucket that refuses it or cannot be reached. Messages hold
        no key, and nothing of what the other side sent.
        """
        path = f"{bucket.prefix}/{name}" if bucket.prefix else name
        try:
            found = _REGION.search(bucket.endpoint_url)
            store = S3Store(  # used for its signatures only; it contacts nothing
                bucket.name,
                config={
                    "endpoint": bucket.endpoint_url.rstrip("/"),
                    "region": found[1] if found else "us-east-1",
                    "access_key_id": bucket.access_key_id,
                    "secret_access_key": bucket.secret_access_key,
                    "virtual_hosted_style_request": False,
                },
                client_options={"allow_http": bucket.endpoint_url.startswith("http://")},
            )
            upload = obstore.sign(store, "PUT", path, timedelta(seconds=3 * TIMEOUT_S))
            link = obstore.sign(store, "GET", path, LINK_LIFE)
        except (BaseError, ValueError):  # their messages may repeat the configuration
            raise StorageUnavailable("The bucket's address or keys cannot be used.") from None
        trouble, until = "", time.monotonic() + TIMEOUT_S
        for _ in range(TRIES):
            left_s = until - time.monotonic()
            if left_s <= 0:
                break
            status = None  # no answer
            with (
                suppress(httpx2.HTTPError, httpx2.InvalidURL),
                guarded_client(self._opened, timeout_s=left_s, resolver=self._resolver) as client,
            ):
                status = client.put(upload, content=data, headers={"Content-Type": media_type}).status_code
            if status is not None and 200 <= status < 300:
                return link
            trouble = "could not be reached" if status is None else f"answered with status {status}"
            if status is not None and status < 500:
                break
        raise StorageUnavailable(f"The bucket {trouble}.")
