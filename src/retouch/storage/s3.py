"""Blobs in a bucket of S3, Google Cloud Storage or Azure, read through links that the bucket presigns.

Named by a URL: `s3://bucket/prefix?endpoint=https://…&region=…`, `gs://bucket/prefix`,
`az://container/prefix`. Accounts and credentials come from the environment, as each provider documents
them, and never from the URL, which settings and logs may show.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import parse_qsl, urlsplit

import httpx2
import obstore
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from retouch.errors import InvalidRequest, StorageUnavailable
from retouch.storage.objects import KEY, StoredObjects, read_key, utc_now

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

Bucket: TypeAlias = S3Store | GCSStore | AzureStore

MAX_LINK_S: Final = 7 * 24 * 3600
"""Longest life of a presigned link; a limit of the providers' signatures."""

_S3_OPTIONS: Final = ("endpoint", "public_endpoint", "region", "virtual_hosted_style_request")
_PATIENCE: Final[RetryConfig] = {"max_retries": 3, "retry_timeout": timedelta(seconds=15)}
_OWN_LINK: Final = re.compile(rf"/({KEY.pattern})$")


class ObjectStoreBlobs(StoredObjects):
    """`Blobs` in the bucket that `url` names; nothing is contacted before the first call.

    An S3 URL takes the options endpoint, region, virtual_hosted_style_request, and public_endpoint: the
    address that links name, when readers reach the bucket by another one than this server.
    Raises InvalidRequest for a URL that is not understood.
    """

    def __init__(self, url: str, *, clock: Callable[[], datetime] = utc_now) -> None:
        store, self._signing_store = _open(url)
        super().__init__(store, keeps_media_types=True, clock=clock)

    def link(self, key: str, *, ttl_s: float, base_url: str) -> str:  # noqa: ARG002 - readers go to the bucket
        """`ttl_s` above MAX_LINK_S is cut to it."""
        read_key(key)
        return self._presigned(key, timedelta(seconds=min(max(round(ttl_s), 1), MAX_LINK_S)))

    def key_of_link(self, url: str, *, base_url: str | None = None) -> str | None:  # noqa: ARG002
        """Only the bucket can judge its signature, so a link that points into it is tried for one byte."""
        own = _OWN_LINK.search(url.partition("?")[0])
        if own is None or url.partition("?")[0] != self._presigned(own[1], timedelta(minutes=1)).partition("?")[0]:
            return None
        try:
            answer = httpx2.get(url, headers={"Range": "bytes=0-0"}, timeout=5, follow_redirects=False, trust_env=False)
        except (httpx2.HTTPError, httpx2.InvalidURL):
            return None
        return own[1] if answer.status_code in (200, 206) else None

    def _presigned(self, key: str, life: timedelta) -> str:
        try:
            return obstore.sign(self._signing_store, "GET", key, life)
        except (BaseError, OSError) as error:
            raise StorageUnavailable("The store of images cannot sign a link right now.") from error


def _open(url: str) -> tuple[Bucket, Bucket]:
    """The same bucket twice: as this server reaches it and as links name it."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    prefix = parts.path.strip("/") or None
    store: Bucket
    try:
        if parts.scheme == "s3":
            return _open_s3(parts.netloc, prefix, options)
        if parts.scheme == "gs" and not options:
            store = GCSStore(parts.netloc, prefix=prefix, retry_config=_PATIENCE, client_options=_client())
            return store, store
        if parts.scheme == "az" and not options:
            store = AzureStore(parts.netloc, prefix=prefix, retry_config=_PATIENCE, client_options=_client())
            return store, store
    except (BaseError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise InvalidRequest(f"The storage URL cannot be used: {reason}", field="storage") from error
    known = ", ".join(_S3_OPTIONS)
    raise InvalidRequest(
        f"The storage URL must begin with s3://, gs:// or az://; only s3:// takes options ({known}).", field="storage"
    )


def _open_s3(bucket: str, prefix: str | None, options: dict[str, str]) -> tuple[S3Store, S3Store]:
    unknown = [name for name in options if name not in _S3_OPTIONS]
    if unknown or "@" in bucket or not bucket:
        wrong = f"does not know the option '{unknown[0]}'" if unknown else "needs a bucket and no credentials"
        raise InvalidRequest(f"The storage URL {wrong}: s3://bucket/prefix?endpoint=…&region=…", field="storage")

    def store(endpoint: str | None) -> S3Store:
        config: S3Config = {}
        if endpoint:
            config["endpoint"] = endpoint
        if "region" in options:
            config["region"] = options["region"]
        if "virtual_hosted_style_request" in options:
            config["virtual_hosted_style_request"] = options["virtual_hosted_style_request"].lower() == "true"
        plain = (endpoint or "").startswith("http://")
        client = _client(allow_http=plain)
        return S3Store(bucket, prefix=prefix, config=config, client_options=client, retry_config=_PATIENCE)

    working = store(options.get("endpoint"))
    public = options.get("public_endpoint")
    return working, store(public) if public else working


def _client(*, allow_http: bool = False) -> ClientConfig:
    return {"allow_http": allow_http, "connect_timeout": timedelta(seconds=5), "timeout": timedelta(seconds=60)}
