"""What stands in front of us, as its how-to sets it up: the Vercel AI SDK as its page has it, the forms that others send."""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from PIL import Image

from tests.live_server import LiveServer, live_server
from tests.sdk.fal import photo
from tests.sdk.node_clients import FOLDER, needs_node, node_packages

__all__ = ["node_packages"]

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("front"), key=True) as running:
        yield running


@needs_node
@pytest.mark.usefixtures("node_packages")
def test_the_program_of_the_vercel_page_edits_an_image(server: LiveServer, tmp_path: Path):
    page = (HOW_TO / "use-the-vercel-ai-sdk.md").read_text(encoding="utf-8")
    block = re.search(r"^```javascript\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert block is not None
    (tmp_path / "edit.mjs").write_text(block[1], encoding="utf-8")
    (tmp_path / "node_modules").symlink_to(FOLDER / "node_modules")
    shutil.copy(Path(__file__).parents[2] / "src" / "retouch" / "samples" / "cat.jpg", tmp_path / "cat.jpg")
    variables = {**os.environ, "RETOUCH_URL": f"{server.url}/v1", "RETOUCH_API_KEY": server.key or ""}
    command = ["node", "--preserve-symlinks-main", "edit.mjs"]
    run = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stderr
    with Image.open(tmp_path / "snow.png") as made:
        assert made.format == "PNG"


def posted(
    server: LiveServer, fields: dict[str, str], files: list[tuple[str, tuple[str, bytes, str]]]
) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {server.key}"}
    return httpx2.post(f"{server.url}/v1/images/edits", data=fields, files=files, headers=headers, timeout=60)


def test_the_form_of_open_webui_is_answered_with_base64_and_no_link(server: LiveServer):
    """It would follow a link with our key in the header; several images come as `image[]`, one as `image`."""
    fields = {"model": "qwen-image-edit-plus", "prompt": "make it snow", "n": "1", "response_format": "b64_json"}
    file = ("image.png", photo(), "image/png")
    for files in ([("image", file)], [("image[]", file), ("image[]", file)]):
        answer = posted(server, fields, files)
        assert answer.status_code == 200, answer.text
        (image,) = answer.json()["data"]
        assert not image.get("url")
        assert Image.open(io.BytesIO(base64.b64decode(image["b64_json"]))).format == "PNG"


def test_the_form_of_litellm_is_taken(server: LiveServer):
    """Even one image comes as `image[]`, named image.png whatever it is."""
    fields = {
        "model": "qwen-image-edit-plus",
        "prompt": "make it snow",
        "n": "1",
        "size": "512x512",
        "user": "somebody",
    }
    answer = posted(server, fields, [("image[]", ("image.png", photo(), "image/png"))])
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"][0]["b64_json"]
