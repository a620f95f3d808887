"""A stored file as an HTTP answer: whole, in part, or not at all when the reader has it already."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from retouch.storage.blobs import Blob

LONGEST_CACHE_S = 31_536_000

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def file_response(blob: Blob, request: Request) -> Response:
    """The blob, one range of it, 304 when the reader has it already, or 416 for a range that is not there."""
    tag = f'"{blob.key.rpartition("/")[2]}"'
    seconds = LONGEST_CACHE_S
    if blob.expires_at is not None:
        seconds = max(0, min(seconds, int((blob.expires_at - datetime.now(UTC)).total_seconds())))
    headers = {"cache-control": f"public, max-age={seconds}, immutable", "etag": tag, "accept-ranges": "bytes"}
    headers |= {"x-content-type-options": "nosniff", "content-security-policy": "default-src 'none'; sandbox"}
    # A link is its own permission, so any page may read the file, also from a cache filled without an Origin.
    headers |= {"cross-origin-resource-policy": "cross-origin", "access-control-allow-origin": "*"}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    size = len(blob.data)
    span = _span(request.headers.get("range"), size)
    if span is None:
        status, data = 200, blob.data
    elif span[0] >= span[1]:
        return Response(status_code=416, headers={**headers, "content-range": f"bytes */{size}"})
    else:
        status, data = 206, blob.data[span[0] : span[1]]
        headers["content-range"] = f"bytes {span[0]}-{span[1] - 1}/{size}"
    headers["content-length"] = str(len(data))
    return Response(b"" if request.method == "HEAD" else data, status, headers, blob.media_type)


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
