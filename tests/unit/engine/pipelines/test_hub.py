"""Weights by name: what is on this machine needs no hub, and a hub that says nothing is given up."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from retouch.engine.pipelines.hub import PARTS, WEIGHTED_PARTS, is_whole

NAME = "someone/an-edit-model"


@dataclass
class SilentHub:
    """Accepts every connection and never says a word."""

    listener: socket.socket
    connections: list[socket.socket] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def accept(self) -> None:
        while True:
            try:
                self.connections.append(self.listener.accept()[0])
            except OSError:
                return


@pytest.fixture
def hub() -> Iterator[SilentHub]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        silent = SilentHub(listener)
        thread = threading.Thread(target=silent.accept, daemon=True)
        thread.start()
        yield silent
        listener.shutdown(socket.SHUT_RDWR)
        for connection in silent.connections:
            connection.close()
        thread.join()


def cached(home: Path) -> Path:
    """A whole model in the layout of the hub's local cache."""
    model = home / "hub" / f"models--{NAME.replace('/', '--')}"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("0" * 40)
    folder = model / "snapshots" / ("0" * 40)
    for part in PARTS:
        (folder / part).mkdir(parents=True)
    for part in WEIGHTED_PARTS:
        (folder / part / "model-00001-of-00002.safetensors").touch()
    (folder / "model_index.json").write_text("{}")
    return folder


def looked_for(hub: SilentHub, home: Path) -> subprocess.CompletedProcess[str]:
    """`weights_of` in a process of its own, because the hub's address is read when its library is imported."""
    program = (
        "import sys\n"
        "from retouch.engine.pipelines.hub import weights_of\n"
        "from retouch.errors import UnknownModel\n"
        "try:\n"
        f"    print(weights_of({NAME!r}, silence_s=0.3))\n"
        "except UnknownModel as error:\n"
        "    sys.exit(error.message)\n"
    )
    environment = os.environ | {"HF_ENDPOINT": hub.address, "HF_HOME": str(home)}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_weights_on_this_machine_are_taken_without_a_word_to_the_hub(hub: SilentHub, tmp_path: Path) -> None:
    folder = cached(tmp_path)
    done = looked_for(hub, tmp_path)
    assert done.stdout.strip() == str(folder), done.stderr
    assert hub.connections == []


def test_a_silent_hub_is_given_up_and_it_is_said_what_was_waited_for(hub: SilentHub, tmp_path: Path) -> None:
    done = looked_for(hub, tmp_path)
    assert done.returncode == 1
    assert hub.connections != []
    waiting, sentence = done.stderr.strip().splitlines()
    assert f"Fetching them from {hub.address}" in waiting
    assert "0.3 seconds" in waiting
    assert NAME in sentence
    assert "could not be fetched" in sentence


def test_a_copy_that_is_not_whole_is_completed_by_the_hub(hub: SilentHub, tmp_path: Path) -> None:
    folder = cached(tmp_path)
    (folder / "vae" / "model-00001-of-00002.safetensors").unlink()
    assert looked_for(hub, tmp_path).returncode == 1
    assert hub.connections != []


def test_a_missing_shard_is_noticed(tmp_path: Path) -> None:
    folder = cached(tmp_path)
    assert is_whole(folder)
    index = folder / "transformer" / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
    assert is_whole(folder)
    index.write_text(
        '{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}'
    )
    assert not is_whole(folder)
    index.write_text("[]")
    assert not is_whole(folder)
