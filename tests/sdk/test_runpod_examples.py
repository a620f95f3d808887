"""The example programs for RunPod's clients and the JavaScript of the tutorial, run as they stand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.live_server import LiveServer
from tests.sdk.node_clients import FOLDER, needs_node, node_packages

__all__ = ["node_packages"]

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "runpod"
TUTORIAL = (ROOT / "docs/tutorials/from-runpod.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```js\n(.*?)^```", TUTORIAL, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with a photo and the JavaScript packages."""
    (tmp_path / "node_modules").symlink_to(FOLDER / "node_modules")
    shutil.copy(ROOT / "src/retouch/samples/cat.jpg", tmp_path / "cat.jpg")
    for example in EXAMPLES.iterdir():
        if example.is_file():
            shutil.copy(example, tmp_path)
    return tmp_path


def run(command: list[str], server: LiveServer, folder: Path) -> str:
    variables = {"RUNPOD_ENDPOINT_BASE_URL": f"{server.url}/v2", "RUNPOD_API_KEY": "any"}
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **variables}, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("example", ["edit.py", "edit_asyncio.py"])
def test_a_python_example_edits(example: str, server: LiveServer, folder: Path):
    assert f"{server.url}/files/outputs/" in run([sys.executable, example, "cat.jpg"], server, folder)


@needs_node
@pytest.mark.usefixtures("node_packages")
def test_the_javascript_example_edits(server: LiveServer, folder: Path):
    assert f"{server.url}/files/outputs/" in run(["node", "edit.mjs", "cat.jpg"], server, folder)


@needs_node
@pytest.mark.usefixtures("node_packages")
def test_the_vercel_example_writes_a_file(server: LiveServer, folder: Path):
    assert "image/png" in run(["node", "vercel.mjs", "cat.jpg", "edited.png"], server, folder)
    with Image.open(folder / "edited.png") as made:
        assert made.format == "PNG"


@needs_node
@pytest.mark.usefixtures("node_packages")
@pytest.mark.parametrize("program", BLOCKS, ids=lambda block: block[-40:])
def test_the_javascript_of_the_tutorial_edits(program: str, server: LiveServer, folder: Path):
    (folder / "block.mjs").write_text(program.replace("http://127.0.0.1:8000", server.url), encoding="utf-8")
    assert run(["node", "block.mjs"], server, folder).strip()


def test_the_tutorial_has_javascript():
    assert len(BLOCKS) == 2
