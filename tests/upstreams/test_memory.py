"""Eight edits of 20 MB at once, in a process of their own: neither the inputs nor the results are ever whole in memory."""

from __future__ import annotations

import base64
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from retouch.storage.objects import LocalBlobs
from tests.live_server import clean_environment
from tests.upstreams.stubs.server import Says, Seen, StubProvider

IMAGE_BYTES = 20 * 1024 * 1024
AT_ONCE = 8
ALLOWED = 64 * 1024 * 1024


def large_png() -> bytes:
    """A file with the structure of a PNG; what is in it is not looked at by what passes it on."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 8, 6, 8, 2, 0, 0, 0)), (b"IDAT", bytes(IMAGE_BYTES)), (b"IEND", b"")]
    framed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


class LargeStub(StubProvider):
    """Takes a queue's submit, or answers one with a large image."""

    def __init__(self, image: bytes) -> None:
        super().__init__()
        self.large = json.dumps({"data": [{"b64_json": base64.b64encode(image).decode()}]}).encode()

    def station(self, method: str, path: str) -> str:
        return "submit"

    def answer(self, request: Seen) -> Says:
        if request.path.endswith("/images/edits"):
            return Says(200, self.large)
        return Says.json(200, {"request_id": "r", "id": "r"})


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read as Linux tells it")
@pytest.mark.parametrize("kind", ["fal", "litellm"])
def test_eight_large_edits_at_once_stay_within_64_mb(kind: str, tmp_path: Path) -> None:
    image = large_png()
    blobs = LocalBlobs(tmp_path, b"s" * 32)
    keys = [blobs.put(image, "image/png", folder="uploads", sync=False) for _ in range(AT_ONCE)]
    stub = LargeStub(image)
    arguments = [kind, stub.url, str(tmp_path), *keys]
    command = [sys.executable, "-m", "tests.upstreams.eight_at_once", *arguments]
    ended = subprocess.run(command, capture_output=True, check=False, env=clean_environment(), timeout=120)
    stub.close()
    assert ended.returncode == 0, ended.stderr.decode()
    assert len(stub.seen) == AT_ONCE
    assert all(int(seen.headers["content-length"]) == len(seen.body) > IMAGE_BYTES for seen in stub.seen)
    over_idle = int(ended.stdout)
    assert over_idle <= ALLOWED, f"{over_idle / 1024 / 1024:.0f} MB over idle"
