"""Where LoRAs come from: nothing outside the operator's folder, nothing private, nothing too large, and kept within a bound."""

from __future__ import annotations

import http.server
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from retouch.edit import Lora
from retouch.errors import InvalidLora, UnknownFile
from retouch.storage.fetch import Fetcher
from retouch.worker.loras import IN_USE_S, LIFE_S, LoraFinder

WEIGHTS = b"weights"


class Files(http.server.BaseHTTPRequestHandler):
    """Serves WEIGHTS at `/l`, 5000 bytes at `/large` and nothing elsewhere; counts."""

    requested: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.requested.append(self.path)
        body = {"/l": WEIGHTS, "/large": b"x" * 5000}.get(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    Files.requested.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def no_upload(key: str) -> bytes:
    raise UnknownFile(f"There is no file '{key}'.")


def no_hub(name: str, folder: Path) -> Path:
    raise InvalidLora(f"The hub has no '{name}'.")


def finder(tmp_path: Path, *, opened: str = "", **how: Any) -> LoraFinder:
    parts = {"folder": None, "read_blob": no_upload, "find_on_hub": no_hub} | how
    fetch = Fetcher((opened,) if opened else (), max_bytes=1000, timeout_s=5).fetch_to
    return LoraFinder(tmp_path / "kept", fetch=fetch, **parts)


def found(finder: LoraFinder, path: str, **how: Any) -> bytes:
    file = finder.find(Lora(path, **how), "loras[0]")
    assert file.size_bytes == file.file.stat().st_size
    return file.file.read_bytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "loras"
    (folder / "styles").mkdir(parents=True)
    (folder / "styles" / "ink.safetensors").write_bytes(b"ink")
    (folder / "trained").mkdir()
    (folder / "trained" / "adapter_model.safetensors").write_bytes(b"trained")
    (folder / "trained" / "adapter_config.json").write_text("{}")
    (folder / "several").mkdir()
    for name in "ab":
        (folder / "several" / f"{name}.safetensors").touch()
    (tmp_path / "secret.safetensors").write_bytes(b"secret")
    (folder / "leads out.safetensors").symlink_to(tmp_path / "secret.safetensors")
    (folder / "out").symlink_to(tmp_path)
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "same.safetensors").symlink_to(folder / "styles" / "ink.safetensors")
    os.mkfifo(folder / "pipe")
    return folder


def test_files_of_the_folder_are_named_by_their_path_in_it(tmp_path: Path, folder: Path) -> None:
    here = finder(tmp_path, folder=folder)
    assert found(here, "styles/ink.safetensors") == b"ink"
    assert found(here, "same.safetensors") == b"ink"
    assert found(here, "trained") == b"trained"
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    "path",
    [
        "../secret.safetensors",
        "styles/../../secret.safetensors",
        "leads out.safetensors",
        "out/secret.safetensors",
        "out",
        "loop",
        "pipe",
        ".",
        "/etc/passwd",
        "{folder}/../secret.safetensors",
        "file://{folder}/styles/ink.safetensors",
        "~/.ssh/id_rsa",
        "x" * 1500,
        "styles",
        "no.safetensors",
    ],
)
def test_nothing_outside_the_folder_can_be_had_and_no_answer_tells_what_is_there(
    tmp_path: Path, folder: Path, path: str
) -> None:
    path = path.format(folder=folder)
    if path == "styles":
        (folder / "styles" / "ink.safetensors").rename(folder / "styles" / "notes.txt")
    with pytest.raises(InvalidLora) as refused:
        found(finder(tmp_path, folder=folder), path)
    assert refused.value.field == "loras[0].path"
    assert "secret" not in refused.value.message.replace(path, "")
    assert str(tmp_path) not in refused.value.message.replace(path[:200], "")


def test_a_folder_of_several_names_them(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InvalidLora, match=r"has 2 files of weights: 'a\.safetensors', 'b\.safetensors'"):
        found(finder(tmp_path, folder=folder), "several")


def test_without_a_folder_no_path_is_a_file(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for path in ("styles/ink.safetensors", str(folder / "styles" / "ink.safetensors"), "same.safetensors"):
        with pytest.raises(InvalidLora):
            found(finder(tmp_path), path)


def test_a_link_is_fetched_once_and_again_when_it_is_old(tmp_path: Path, site: str) -> None:
    here = finder(tmp_path, opened=site.removeprefix("http://"))
    assert [found(here, f"{site}/l") for _ in range(3)] == [WEIGHTS] * 3
    assert Files.requested == ["/l"]
    [kept] = (tmp_path / "kept").iterdir()
    os.utime(kept, (time.time(), time.time() - LIFE_S - 1))
    found(here, f"{site}/l")
    assert Files.requested == ["/l", "/l"]
    assert [file.name for file in (tmp_path / "kept").iterdir()] == [kept.name]


def test_a_link_to_a_private_address_is_not_asked(tmp_path: Path, site: str) -> None:
    with pytest.raises(InvalidLora, match="not a public address") as refused:
        found(finder(tmp_path), f"{site}/l")
    assert refused.value.field == "loras[0].path"
    assert Files.requested == []


@pytest.mark.parametrize(
    ("path", "says"), [("/nothing", "could not be fetched: .* status 404"), ("/large", "at most 2.00 GB are allowed")]
)
def test_what_cannot_be_fetched_leaves_nothing_behind(tmp_path: Path, site: str, path: str, says: str) -> None:
    with pytest.raises(InvalidLora, match=says) as refused:
        found(finder(tmp_path, opened=site.removeprefix("http://")), site + path)
    assert refused.value.field == "loras[0].path"
    assert list((tmp_path / "kept").iterdir()) == []


def test_an_upload_is_read_as_long_as_it_is_there(tmp_path: Path) -> None:
    uploads = {"uploads/1": WEIGHTS}

    def read(key: str) -> bytes:
        return uploads[key] if key in uploads else no_upload(key)

    here = finder(tmp_path, read_blob=read)
    assert found(here, "https://here/1", blob="uploads/1") == WEIGHTS
    uploads.clear()
    with pytest.raises(UnknownFile) as refused:
        found(here, "https://here/1", blob="uploads/1")
    assert refused.value.field == "loras[0].path"


@pytest.mark.parametrize("path", ["uploads/1", "blob:uploads/1", "kept/../uploads/1"])
def test_an_upload_is_not_named_by_its_key(tmp_path: Path, path: str) -> None:
    with pytest.raises(InvalidLora):
        found(finder(tmp_path, read_blob=lambda _: WEIGHTS), path)


def test_the_hub_is_asked_once_and_what_lies_in_its_own_cache_stays_there(tmp_path: Path) -> None:
    requested: list[str] = []
    cached = tmp_path / "hub.safetensors"
    cached.write_bytes(b"cached")

    def hub(name: str, folder: Path) -> Path:
        requested.append(name)
        if name == "owner/cached":
            return cached
        (folder / "new").write_bytes(b"new")
        return folder / "new"

    here = finder(tmp_path, find_on_hub=hub)
    assert [found(here, "owner/name/file.safetensors") for _ in range(2)] == [b"new"] * 2
    assert found(here, "owner/cached") == b"cached"
    assert requested == ["owner/name/file.safetensors", "owner/cached"]
    assert cached.exists()


@pytest.mark.parametrize(
    "path", ["a/../b", "a/b/../../c", "../a/b", "a//b", "/a/b", "a/b/", ".a/b", "just-a-name", "a/b\\c"]
)
def test_what_is_no_name_of_the_hub_is_not_asked_for(tmp_path: Path, path: str) -> None:
    def hub(name: str, folder: Path) -> Path:
        raise AssertionError(name)

    with pytest.raises(InvalidLora):
        found(finder(tmp_path, find_on_hub=hub), path)


def test_several_who_want_the_same_file_bring_it_once(tmp_path: Path) -> None:
    requested: list[str] = []
    arrived = threading.Barrier(4)

    def hub(name: str, folder: Path) -> Path:
        requested.append(name)
        (folder / "new").write_bytes(b"new")
        return folder / "new"

    here = finder(tmp_path, find_on_hub=hub)

    def want() -> None:
        arrived.wait(10)
        assert found(here, "owner/name") == b"new"

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert requested == ["owner/name"]


def test_what_was_not_used_for_longest_goes_first_and_what_is_in_use_stays(tmp_path: Path) -> None:
    def hub(name: str, folder: Path) -> Path:
        (folder / "new").write_bytes(b"x" * 100)
        return folder / "new"

    here = finder(tmp_path, find_on_hub=hub, kept_bytes=250)
    files = {name: here.find(Lora(f"owner/{name}"), "loras[0]").file for name in "abc"}
    assert all(file.exists() for file in files.values()), "all are in use"
    for age, name in enumerate("cab"):
        os.utime(files[name], (time.time() - IN_USE_S - 100 + age, time.time()))
    here.find(Lora("owner/d"), "loras[0]")
    assert [name for name, file in files.items() if file.exists()] == ["b"]
