"""What is asked to be gone is gone from the disk, by the server's own sweeper."""

from __future__ import annotations

import json
from pathlib import Path

import httpx

from retouch.service import ServiceSettings
from tests.harness import gated_server
from tests.sdk.fal import EDIT, arguments, photo
from tests.waiting import until

SWEPT_AT_ONCE = ServiceSettings(delete_every_s=0.0)
ONE_SECOND = {"X-Fal-Object-Lifecycle-Preference": json.dumps({"expiration_duration_seconds": 1})}


def test_the_sweeper_deletes_what_has_expired_and_nothing_else(tmp_path: Path):
    """Checklist 45: outputs and uploads of a second's life, beside an output that stays."""
    with (
        gated_server(tmp_path, settings=SWEPT_AT_ONCE) as server,
        httpx.Client(base_url=f"{server.url}/fal", timeout=30) as client,
    ):
        server.gate.open()
        kept = client.post(f"/run/{EDIT}", json=arguments()).json()["images"][0]["file_name"]
        stored = set(files(tmp_path))
        short = client.post(f"/run/{EDIT}", json=arguments(), headers=ONE_SECOND).json()["images"][0]["file_name"]
        header = {"X-Fal-Object-Lifecycle": ONE_SECOND["X-Fal-Object-Lifecycle-Preference"]}
        upload = client.post("/cdn/files/upload", content=photo(), headers=header).json()["access_url"]
        uploaded = httpx.URL(upload).path.rpartition("/")[2]
        until(lambda: {short, uploaded}.isdisjoint(files(tmp_path)))
        assert kept in files(tmp_path)
        assert stored <= set(files(tmp_path))
        assert httpx.get(upload).status_code == 404


def test_parts_that_are_never_put_together_expire(tmp_path: Path):
    """Checklist 36 and 45: an upload that was given up leaves nothing behind."""
    with (
        gated_server(tmp_path, settings=SWEPT_AT_ONCE) as server,
        httpx.Client(base_url=f"{server.url}/fal", timeout=30) as client,
    ):
        answer = client.post("/rest/storage/upload/initiate-multipart", json={}, headers=ONE_SECOND).json()
        assert client.put(f"{answer['upload_url']}/1", content=b"x" * 1000).status_code == 200
        until(lambda: not files(tmp_path))
        assert client.put(f"{answer['upload_url']}/2", content=b"x").status_code == 404


def files(data: Path) -> list[str]:
    return [path.name for path in (data / "files").rglob("*.*")]
