"""Weights by name: what is on this machine needs no hub, and a hub that says nothing is given up."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from retouch.engine.pipelines.hub import PARTS, WEIGHTED_PARTS, choose_weights, is_whole
from retouch.errors import InvalidLora

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


def test_a_silent_hub_is_given_up_and_what_was_waited_for_is_reported(hub: SilentHub, tmp_path: Path) -> None:
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


# --- LoRAs

WEIGHTS = b"weights of a LoRA"
COMMIT = "1" * 40


class SmallHub(http.server.BaseHTTPRequestHandler):
    """One repository with two files; tells a size that may be another than the file has."""

    files: ClassVar[dict[str, int]] = {}
    tokens: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self.tokens.append(self.headers.get("authorization"))
        if self.path.startswith(f"/api/models/{NAME}"):
            files = [{"rfilename": name, "size": size} for name, size in self.files.items()]
            known = {"_id": "1", "id": NAME, "modelId": NAME, "sha": COMMIT, "siblings": files, "private": False}
            return self.answer(json.dumps(known | {"tags": [], "downloads": 0, "likes": 0}).encode())
        name = self.path.partition("/resolve/")[2].partition("/")[2]
        if name in self.files:
            return self.answer(WEIGHTS)
        self.send_response(404)
        self.send_header("x-error-code", "EntryNotFound" if NAME in self.path else "RepoNotFound")
        self.send_header("content-length", "0")
        return self.end_headers()

    def do_HEAD(self) -> None:
        self.do_GET()

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        for header, value in (("etag", '"e1"'), ("x-repo-commit", COMMIT), ("content-length", str(len(body)))):
            self.send_header(header, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def small_hub() -> Iterator[str]:
    SmallHub.files.clear()
    SmallHub.tokens.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), SmallHub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def lora_looked_for(address: str, home: Path, name: str) -> subprocess.CompletedProcess[str]:
    """`lora_of` as `weights_of` above; prints where the file is."""
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from retouch.engine.pipelines.hub import lora_of\n"
        "from retouch.errors import InvalidLora\n"
        "try:\n"
        f"    print(lora_of({name!r}, Path({str(home / 'here')!r}), max_bytes=1000, silence_s=0.3))\n"
        "except InvalidLora as error:\n"
        "    sys.exit(error.message)\n"
    )
    (home / "here").mkdir(exist_ok=True)
    environment = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_TOKEN": "hf_operators"}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_lora_of_the_hub_is_fetched_without_the_operators_token(small_hub: str, tmp_path: Path) -> None:
    SmallHub.files |= {"pytorch_lora_weights.safetensors": 17, "other.safetensors": 17}
    done = lora_looked_for(small_hub, tmp_path, NAME)
    file = Path(done.stdout.strip() or "/")
    assert file == tmp_path / "here" / "pytorch_lora_weights.safetensors", done.stderr
    assert file.read_bytes() == WEIGHTS
    assert set(SmallHub.tokens) == {None}


@pytest.mark.parametrize(
    ("name", "files", "says"),
    [
        (NAME, {"a.safetensors": 1, "b.safetensors": 1}, "2 files of weights: 'a.safetensors', 'b.safetensors'"),
        (f"{NAME}/c.safetensors", {"a.safetensors": 1}, "has no file 'c.safetensors'"),
        (NAME, {"a.safetensors": 10**10}, "has 10.00 GB; at most 0.00 GB are allowed"),
        ("someone/unknown", {}, "could not be fetched from"),
    ],
)
def test_what_the_hub_has_not_is_one_sentence(
    small_hub: str, tmp_path: Path, name: str, files: dict[str, int], says: str
) -> None:
    SmallHub.files |= files
    done = lora_looked_for(small_hub, tmp_path, name)
    assert done.returncode == 1
    [sentence] = done.stderr.strip().splitlines()
    assert says in sentence
    assert list((tmp_path / "here").iterdir()) == []


def test_a_lora_in_the_hubs_cache_needs_no_hub(hub: SilentHub, tmp_path: Path) -> None:
    folder = cached(tmp_path)
    (folder / "style.safetensors").write_bytes(WEIGHTS)
    done = lora_looked_for(hub.address, tmp_path, f"{NAME}/style.safetensors")
    assert done.stdout.strip() == str(folder / "style.safetensors"), done.stderr
    assert hub.connections == []


def test_a_silent_hub_is_given_up_for_a_lora_too(hub: SilentHub, tmp_path: Path) -> None:
    done = lora_looked_for(hub.address, tmp_path, NAME)
    assert done.returncode == 1
    assert "could not be fetched" in done.stderr


def test_the_file_of_weights_is_the_one_of_a_usual_name_or_the_only_one() -> None:
    assert choose_weights("x", ["README.md", "a.safetensors"]) == "a.safetensors"
    assert choose_weights("x", ["a.safetensors", "adapter_model.safetensors"]) == "adapter_model.safetensors"
    with pytest.raises(InvalidLora, match="has 0 files of weights; name one"):
        choose_weights("x", ["a.bin"])
