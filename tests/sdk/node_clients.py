"""Runs the vendors' JavaScript clients, unmodified, in Node: one function of `node/*.mjs` a call.

The packages are installed by `npm ci` into `node/node_modules` when the lock file is another than last time.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent / "node"
INSTALL_WITHIN_S, ANSWER_WITHIN_S = 240, 120

needs_node = pytest.mark.skipif(
    shutil.which("node") is None or shutil.which("npm") is None, reason="node and npm are not installed"
)


@pytest.fixture(scope="session")
def node_packages() -> None:
    """The packages of the lock file, installed."""
    lock_file = FOLDER / "package-lock.json"
    wanted = hashlib.sha256(lock_file.read_bytes()).hexdigest()
    done = FOLDER / "node_modules" / ".installed"
    with lock_file.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs of the tests on one checkout
        if done.is_file() and done.read_text() == wanted:
            return
        command = ["npm", "ci", "--ignore-scripts", "--no-progress"]
        installed = subprocess.run(
            command, cwd=FOLDER, capture_output=True, text=True, check=False, timeout=INSTALL_WITHIN_S
        )
        assert installed.returncode == 0, installed.stdout + installed.stderr
        done.write_text(wanted)


def start(
    module: str, name: str, *, variables: Mapping[str, str] | None = None, options: tuple[str, ...] = (), **given: Any
) -> subprocess.Popen[str]:
    """The function `name` of `module`, running in a process of its own; see `returned`."""
    command = ["node", *options, str(FOLDER / "call.mjs"), module, name, json.dumps(given)]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("FAL_", "OPENAI_", "NODE_"))}
    environment = {**kept, **(variables or {})}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def returned(process: subprocess.Popen[str]) -> Any:
    """What the function returned."""
    with process:
        try:
            out, errors = process.communicate(timeout=ANSWER_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode == 0, errors[-4000:]
    return json.loads(out.splitlines()[-1])


def call(module: str, name: str, **given: Any) -> Any:
    return returned(start(module, name, **given))
