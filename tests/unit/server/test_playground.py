"""The files of the playground as the server sends them: caching, compression, and what the page may load."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI

from retouch.errors import RetouchError
from retouch.server.app import answer_error
from retouch.server.playground import BUILD, content_security_policy, files_origin, playground_routes
from retouch.storage.objects import LocalBlobs

SOURCES = Path(__file__).parents[3] / "playground"


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    app = FastAPI()
    app.add_exception_handler(RetouchError, answer_error)
    app.include_router(playground_routes(LocalBlobs(tmp_path, b"s" * 32)))
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://retouch.test") as client:
        yield client


def test_the_build_was_made_from_the_sources_beside_it() -> None:
    inside = [path for path in (SOURCES / "src").rglob("*") if path.is_file()]
    beside = [SOURCES / name for name in ("index.html", "package-lock.json", "tsconfig.json", "vite.config.js")]
    digest = hashlib.sha256()
    for path in sorted((*inside, *beside), key=lambda path: path.relative_to(SOURCES).as_posix()):
        digest.update(f"{path.relative_to(SOURCES).as_posix()}\0".encode() + path.read_bytes())
    recorded = (BUILD / "sources.sha256").read_text().strip()
    assert recorded == digest.hexdigest(), "run `npm ci && npm run build` in playground/ and commit the result"


def test_the_lock_file_holds_no_download_addresses() -> None:
    assert '"resolved"' not in (SOURCES / "package-lock.json").read_text()


async def test_the_page_loads_files_of_this_server_only_and_has_no_inline_script(client: httpx2.AsyncClient) -> None:
    page = await client.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag in re.findall(r"<(?:script|link)[^>]*>", page.text):
        assert re.search(r'(?:src|href)="/playground/assets/[^"]+"', tag), tag
    assert re.findall(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*src=)", page.text) == []


async def test_every_file_the_page_names_is_there_and_cached_for_ever(client: httpx2.AsyncClient) -> None:
    page = await client.get("/")
    assert page.headers["cache-control"] == "no-cache"
    named = re.findall(r'(?:src|href)="(/playground/[^"]+)"', page.text)
    assert len(named) >= 3
    for path in named:
        answer = await client.get(path)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        assert (await client.get(path, headers={"if-none-match": answer.headers["etag"]})).status_code == 304


async def test_a_script_is_sent_compressed_and_is_small(client: httpx2.AsyncClient) -> None:
    script = next((BUILD / "assets").glob("*.js"))
    answer = await client.get(f"/playground/assets/{script.name}", headers={"accept-encoding": "gzip"})
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["content-type"].startswith("text/javascript")
    assert len(gzip.compress(script.read_bytes(), mtime=0)) <= 150_000


async def test_nothing_outside_the_build_is_served(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/playground/sample.jpg")).headers["content-type"] == "image/jpeg"
    for path in ("/playground/sources.sha256", "/playground/assets/", "/playground/assets%2f..%2f..%2fapp.py"):
        answer = await client.get(path)
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "unknown_url"


def test_images_of_an_object_store_may_be_shown(tmp_path: Path) -> None:
    assert files_origin(LocalBlobs(tmp_path, b"s" * 32)) is None
    policy = content_security_policy("https://bucket.example")
    assert "img-src 'self' blob: data: https://bucket.example;" in policy
    assert "script-src 'self';" in policy
