"""Serves the playground: the page at `/`, its scripts and styles, and the sample image.

The files are built from `playground/` at the root of the repository and are part of the package. Nothing here
answers for the page: whatever it shows comes from the public routes of the faces.
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from retouch.errors import UnknownUrl
from retouch.storage.blobs import Blobs

BUILD = Path(__file__).with_name("playground")
SAMPLE = Path(__file__).parent.parent / "samples" / "cat.jpg"

FOREVER = "public, max-age=31536000, immutable"
"""For files whose name holds a hash of their content."""

REVALIDATE = "no-cache"

COMPRESSED_TYPES = ("text/", "application/json", "image/svg")
"""Beginnings of the media types that get smaller; images do not."""


@dataclass(frozen=True, slots=True)
class Asset:
    """One file in memory. compressed: its gzip form, None where that is not smaller."""

    data: bytes
    compressed: bytes | None
    media_type: str
    cache_control: str
    tag: str

    @classmethod
    def of(cls, path: Path, cache_control: str) -> Asset:
        data = path.read_bytes()
        media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        # Some systems call it application/javascript; the browsers' own standard (RFC 9239) does not.
        media_type = "text/javascript" if path.suffix == ".js" else media_type
        packed = gzip.compress(data, mtime=0) if media_type.startswith(COMPRESSED_TYPES) else None
        return cls(data, packed, media_type, cache_control, f'"{hashlib.sha256(data).hexdigest()[:32]}"')


def playground_routes(blobs: Blobs) -> APIRouter:
    """`GET /` and `GET /playground/{path}`. blobs: tells from where the page may show stored images."""
    page = Asset.of(BUILD / "index.html", REVALIDATE)
    assets = {f"assets/{path.name}": Asset.of(path, FOREVER) for path in (BUILD / "assets").iterdir()}
    assets["sample.jpg"] = Asset.of(SAMPLE, REVALIDATE)
    router = APIRouter()

    @router.api_route("/", methods=["GET", "HEAD"])
    async def read_page(request: Request) -> Response:
        # Signing a link may ask the object store's credentials, which must not hold up other requests.
        policy = content_security_policy(await run_in_threadpool(files_origin, blobs))
        return asset_answer(page, request, {"content-security-policy": policy})

    @router.api_route("/playground/{path:path}", methods=["GET", "HEAD"])
    async def read_asset(request: Request, path: str) -> Response:
        asset = assets.get(path)
        if asset is None:
            raise UnknownUrl(f"Path /playground/{path[:200]} not found")
        return asset_answer(asset, request, {})

    return router


def files_origin(blobs: Blobs) -> str | None:
    """The origin of links to stored files; None when it is this server's own, as with the local store."""
    own = "http://own.invalid"
    link = blobs.link(blobs.reserve("image/png", folder="outputs"), ttl_s=60, base_url=own)
    if link.startswith(own):
        return None
    parts = urlsplit(link)
    return f"{parts.scheme}://{parts.netloc}"


def content_security_policy(files: str | None) -> str:
    """No inline script or style and no other origin, except that of the object store where there is one."""
    stored = f" {files}" if files else ""
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; "
        f"img-src 'self' blob: data:{stored}; connect-src 'self' blob: data:{stored}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def asset_answer(asset: Asset, request: Request, headers: dict[str, str]) -> Response:
    """The file, compressed where the reader accepts it; 304 when the reader has it already."""
    headers |= {
        "cache-control": asset.cache_control,
        "etag": asset.tag,
        "vary": "accept-encoding",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }
    if asset.tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    data = asset.data
    if asset.compressed is not None and "gzip" in request.headers.get("accept-encoding", ""):
        data = asset.compressed
        headers["content-encoding"] = "gzip"
    headers["content-length"] = str(len(data))
    body = b"" if request.method == "HEAD" else data
    return Response(body, headers=headers, media_type=asset.media_type)
