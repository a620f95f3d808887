"""The copied text of every protocol and language is executed as it is and makes an image."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.harness import Deployment
from tests.playground.pages import OpenPage, image_file, use_small_image
from tests.sdk.node_clients import FOLDER as NODE_FOLDER
from tests.sdk.node_clients import needs_node, node_packages

__all__ = ["node_packages"]

KEYS = {"FAL_KEY": "any", "OPENAI_API_KEY": "any", "RUNPOD_API_KEY": "any"}


@pytest.fixture
def code_page(open_page: OpenPage, quick: Deployment) -> Page:
    """The Code tab, with an instruction that needs quoting in a shell and in every language."""
    page = open_page(quick.url, permissions=["clipboard-read", "clipboard-write"])
    use_small_image(page, image_file())
    page.get_by_role("textbox", name="Instruction").fill('make it "darker", don\'t blur it')
    page.get_by_role("spinbutton", name="Seed").fill("3")
    page.get_by_role("tab", name="Code").click()
    return page


def copied(page: Page, protocol: str, language: str) -> str:
    page.get_by_role("tab", name=protocol, exact=True).click()
    page.get_by_role("tab", name=language).click()
    expect(page.get_by_role("button", name="Copy")).to_be_enabled()
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_text("Copied.")).to_be_visible()
    text: str = page.evaluate("navigator.clipboard.readText()")
    assert text == page.locator("pre").inner_text()
    return text


def output_of(command: list[str], folder: Path, variables: Mapping[str, str] = KEYS, stdin: str | None = None) -> str:
    ended = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **variables},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout


def assert_links_to_an_image(output: str) -> None:
    link = re.search(r"https?://[^\s\"\\]+/files/outputs/[^\s\"\\]+", output)
    assert link is not None, output
    with urllib.request.urlopen(link[0]) as answer:
        assert answer.headers["content-type"].startswith("image/")


@pytest.mark.parametrize("protocol", ["fal", "OpenAI", "RunPod"])
def test_the_curl_text_runs(code_page: Page, tmp_path: Path, protocol: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    output = output_of(["bash", "-e"], tmp_path, stdin=copied(code_page, protocol, "curl"))
    body: dict[str, Any] = json.loads(output)
    assert "error" not in body
    if protocol == "fal":
        assert body["seed"] == 3
    assert_links_to_an_image(output)


@pytest.mark.parametrize("protocol", ["fal", "OpenAI", "RunPod"])
def test_the_python_text_runs(code_page: Page, tmp_path: Path, protocol: str) -> None:
    file = tmp_path / "edit.py"
    file.write_text(copied(code_page, protocol, "Python"))
    assert_links_to_an_image(output_of([sys.executable, str(file)], tmp_path))


@needs_node
@pytest.mark.usefixtures("node_packages")
@pytest.mark.parametrize("protocol", ["fal", "OpenAI", "RunPod"])
def test_the_javascript_text_runs(code_page: Page, protocol: str) -> None:
    source = copied(code_page, protocol, "JavaScript")
    assert_links_to_an_image(output_of(["node", "--input-type=module", "-"], NODE_FOLDER, stdin=source))


def test_the_openai_text_brings_the_mask(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    use_small_image(page, image_file((60, 160, 200)))
    page.get_by_role("button", name="Paint a mask").click()
    page.get_by_role("application", name="Mask").focus()
    page.keyboard.press("Space")
    page.get_by_role("button", name="Done").click()
    page.get_by_role("textbox", name="Instruction").fill("invert the colors")
    page.get_by_role("tab", name="Code").click()
    expect(page.get_by_text("The mask is not part of this code")).to_be_visible()
    file = tmp_path / "edit.py"
    file.write_text(copied(page, "OpenAI", "Python"))
    with urllib.request.urlopen(output_of([sys.executable, str(file)], tmp_path).strip()) as answer:
        pixels = np.asarray(Image.open(answer).convert("RGB")).astype(int)
    before = np.asarray(Image.open(io.BytesIO(image_file((60, 160, 200))))).astype(int)
    change = np.abs(pixels - before).max(2)
    assert change[64, 64] > 25
    assert change[:30].max() == 0
