"""Every command and every program in the README and the tutorials is run as it stands.

Only the port is another one, so that a server of the reader's own is left alone.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.live_server import free_port

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "tutorials").glob("*.md"))]
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NEEDS_A_GPU = "needs a GPU"


@dataclass(frozen=True)
class Block:
    """One fenced block: where it stands, its language and its text."""

    page: Path
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        return [line[2:] for line in self.text.splitlines() if line.startswith("$ ")]


def blocks(language: str) -> list[Block]:
    found = [Block(page, *match.groups()) for page in PAGES for match in BLOCK.finditer(page.read_text("utf-8"))]
    return [block for block in found if block.language == language]


def console_commands() -> list[str]:
    commands = [command for block in blocks("console") for command in block.commands]
    return list(dict.fromkeys(c for c in commands if not c.startswith("make serve") and NEEDS_A_GPU not in c))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder that looks like the checkout and holds an image, as the pages assume."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("src", ".venv"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "cat.jpg").symlink_to(ROOT / "src" / "retouch" / "samples" / "cat.jpg")
    return folder


@pytest.fixture(scope="module")
def port(folder: Path) -> Iterator[int]:
    """`make serve`, as the README says, on a free port and a data folder of its own."""
    assert any("make serve" in block.commands for block in blocks("console"))
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RETOUCH_")}
    command = ["make", "--no-print-directory", "serve", f"ARGS=--port {port} --data {folder / 'data'}"]
    with (folder / "serve.log").open("w") as log:
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}/ready", server, folder / "serve.log")
        yield port
    finally:
        server.terminate()
        server.wait(timeout=30)


def wait_until_ready(url: str, server: subprocess.Popen[bytes], log: Path, limit_s: float = 120) -> None:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError):
            server_gone(server, 0.2)
    raise AssertionError(f"the server did not become ready:\n{log.read_text()[-4000:]}")


def server_gone(server: subprocess.Popen[bytes], timeout_s: float) -> bool:
    """Wait a moment for the server to exit; True when it did."""
    try:
        server.wait(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def run(command: list[str], folder: Path, port: int) -> subprocess.CompletedProcess[str]:
    address = f"http://127.0.0.1:{port}"
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("RETOUCH_")},
        "OPENAI_BASE_URL": f"{address}/v1",
        "OPENAI_API_KEY": "any",
        "FAL_KEY": "any",
        "RUNPOD_ENDPOINT_BASE_URL": f"{address}/v2",
        "RUNPOD_API_KEY": "any",
        "PATH": f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "XDG_DATA_HOME": str(folder / "share"),
    }
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("command", console_commands())
def test_a_command_of_the_pages_works(command: str, folder: Path, port: int):
    if command.startswith("make "):
        assert command.split()[1] in re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return
    done = run(["bash", "-euo", "pipefail", "-c", command.replace(":8000", f":{port}")], folder, port)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: f"{block.page.name}: {block.text[:40]!r}")
def test_a_program_of_the_pages_works(block: Block, folder: Path, port: int):
    done = run(["python", "-c", block.text.replace(":8000", f":{port}")], folder, port)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()
