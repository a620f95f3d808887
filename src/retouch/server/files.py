"""Serves stored pictures by signed link, whole or in part. It makes no links and lists nothing."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from retouch.errors import UnknownFile
from retouch.storage.blobs import Blob, Blobs

LONGEST_CACHE_S = 31_536_000

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def file_routes(blobs: Blobs) -> APIRouter:
    """`GET` and `HEAD /files/{key}`; errors are raised as UnknownFile or StorageUnavailable."""
    router = APIRouter()

    @router.api_route("/files/{key:path}", methods=["GET", "HEAD"])
    async def read_file(request: Request, key: str) -> Response:
        if blobs.key_of_link(str(request.url)) != key:
            raise UnknownFile("There is no such file, or its link has expired.")
        blob = await run_in_threadpool(blobs.get, key)
        return file_answer(blob, request.headers.get("range"), request.headers.get("if-none-match"), request.method)

    return router


def file_answer(blob: Blob, range_header: str | None, if_none_match: str | None, method: str = "GET") -> Response:
    """The blob, one range of it, 304 when the reader has it already, or 416 for a range that is not there."""
    tag = f'"{blob.key.rpartition("/")[2]}"'
    headers = {"cache-control": _cache_control(blob), "etag": tag, "accept-ranges": "bytes"}
    headers |= {"x-content-type-options": "nosniff", "content-security-policy": "default-src 'none'; sandbox"}
    # A link is its own permission, so any page may read the file, also from a cache filled without an Origin.
    headers |= {"cross-origin-resource-policy": "cross-origin", "access-control-allow-origin": "*"}
    if if_none_match is not None and tag in if_none_match:
        return Response(status_code=304, headers=headers)
    size = len(blob.data)
    span = _span(range_header, size)
    if span is None:
        status, data = 200, blob.data
    elif span[0] >= span[1]:
        return Response(status_code=416, headers={**headers, "content-range": f"bytes */{size}"})
    else:
        status, data = 206, blob.data[span[0] : span[1]]
        headers["content-range"] = f"bytes {span[0]}-{span[1] - 1}/{size}"
    headers["content-length"] = str(len(data))
    return Response(b"" if method == "HEAD" else data, status, headers, blob.media_type)


def _span(header: str | None, size: int) -> tuple[int, int] | None:
    """Start and end of the range asked for; None for the whole. Start is not below end when nothing is there.

    Several ranges and unknown units are answered with the whole file, as HTTP allows.
    """
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or match[0] == "bytes=-":
        return None
    first, last = match[1], match[2]
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


def _cache_control(blob: Blob) -> str:
    seconds = LONGEST_CACHE_S
    if blob.expires_at is not None:
        seconds = max(0, min(seconds, int((blob.expires_at - datetime.now(UTC)).total_seconds())))
    return f"public, max-age={seconds}, immutable"
