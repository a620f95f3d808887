"""The command line as a person meets it: what it prints, and one kind sentence when something is wrong."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from retouch import images
from retouch.cli.main import run
from retouch.settings import ModelSettings, NetworkSettings, StoreSettings, read
from tests.unit.worker.bench import png

Retouch = Callable[..., tuple[int, str, str]]


@pytest.fixture
def retouch(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Retouch:
    """Runs `retouch …` in this process; gives the exit code and what was printed on both streams."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["retouch", *arguments])
        with pytest.raises(SystemExit) as ended:
            run()
        out, err = capfd.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else 0 if code is None else 1), out, err

    return call


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(png(96, 64))
    return path


def is_one_sentence(text: str) -> bool:
    return text.startswith("retouch: ") and text.count("\n") == 1 and text[-2] in ".?" and "Traceback" not in text


def test_the_version_is_printed(retouch: Retouch) -> None:
    code, out, _ = retouch("--version")
    assert (code, out.split()[0]) == (0, "retouch")


def test_an_edit_writes_the_picture_and_tells_its_seed(retouch: Retouch, photo: Path, tmp_path: Path) -> None:
    out_file = tmp_path / "out.png"
    code, out, _ = retouch("edit", str(photo), "make it grey", "-o", str(out_file), "--model", "null", "--seed", "7")
    assert code == 0
    assert "seed 7" in out
    assert images.decode(out_file.read_bytes()).shape[2] == 3


def test_the_same_seed_gives_the_same_bytes(retouch: Retouch, photo: Path, tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        retouch("edit", str(photo), "x", "-o", str(tmp_path / name), "--model", "null", "--seed", "3", "--steps", "2")
    assert (tmp_path / "a.jpg").read_bytes() == (tmp_path / "b.jpg").read_bytes()


def test_the_size_asked_for_is_delivered(retouch: Retouch, photo: Path, tmp_path: Path) -> None:
    out_file = tmp_path / "out.webp"
    code, _, _ = retouch("edit", str(photo), "x", "-o", str(out_file), "--model", "null", "--size", "200x100")
    assert code == 0
    assert images.decode(out_file.read_bytes()).shape == (100, 200, 3)


@pytest.mark.parametrize(
    "arguments",
    [
        ("{photo}", "-o", "{out}.png"),
        ("{missing}", "x", "-o", "{out}.png"),
        ("{text}", "x", "-o", "{out}.png"),
        ("{photo}", " ", "-o", "{out}.png"),
        ("{photo}", "x", "-o", "{out}.bmp"),
        ("{photo}", "x", "-o", "{missing}/out.png"),
        ("{photo}", "x", "-o", "{out}.png", "--size", "huge"),
        ("{photo}", "x", "-o", "{out}.png", "--steps", "0"),
        ("{photo}", "x", "-o", "{out}.png", "--seed", "-1"),
        ("{photo}", "x", "-o", "{out}.png", "--model", "nope"),
        ("{photo}", "x", "-o", "{out}.png", "--model", "qwen-image-2.1"),
    ],
)
def test_a_mistake_is_answered_with_one_sentence(
    retouch: Retouch, photo: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    text = tmp_path / "text.png"
    text.write_text("hello")
    names = {"photo": photo, "missing": tmp_path / "missing", "text": text, "out": tmp_path / "out"}
    model = () if "--model" in arguments else ("--model", "null")
    code, _, err = retouch("edit", *(argument.format(**names) for argument in arguments), *model)
    assert code == 1
    assert is_one_sentence(err), err


def test_an_unknown_option_is_told_with_the_usage(retouch: Retouch) -> None:
    code, _, err = retouch("serve", "--nonsense")
    assert code == 2
    assert "--nonsense" in err
    assert "Traceback" not in err


def test_an_unknown_variable_is_refused(retouch: Retouch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETOUCH_PROT", "1")
    code, _, err = retouch("env", "openai")
    assert code == 1
    assert is_one_sentence(err), err


def test_serve_says_when_the_port_is_taken(retouch: Retouch, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, _, err = retouch("serve", "--port", port, "--data", str(tmp_path), "--model", "null")
    assert code == 1
    assert f"port {port}" in err
    assert is_one_sentence(err), err


def test_serve_says_when_the_data_folder_cannot_be_written(retouch: Retouch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, _, err = retouch("serve", "--port", "0" * 3 + "1", "--data", str(tmp_path / "file" / "x"), "--model", "null")
    assert code == 1
    assert is_one_sentence(err), err


def test_serve_refuses_the_world_without_a_key(retouch: Retouch, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        port = str(probe.getsockname()[1])
    arguments = ("--host", "0.0.0.0", "--port", port, "--data", str(tmp_path), "--model", "null")
    code, _, err = retouch("serve", *arguments)
    assert code == 1
    assert "retouch keys create" in err
    assert is_one_sentence(err), err


def test_keys_are_made_listed_and_revoked(retouch: Retouch, tmp_path: Path) -> None:
    data = ("--data", str(tmp_path))
    _, out, _ = retouch("keys", "create", "anne", *data)
    secret = out.splitlines()[-1]
    assert secret.startswith("rt_")
    _, listed, _ = retouch("keys", "list", *data)
    assert "anne" in listed
    assert secret not in listed
    assert retouch("keys", "revoke", "anne", *data)[0] == 0
    _, listed, _ = retouch("keys", "list", *data)
    assert "revoked" in listed
    code, _, err = retouch("keys", "revoke", "anne", *data)
    assert code == 1
    assert is_one_sentence(err), err


def test_env_prints_the_exports_of_each_client(retouch: Retouch) -> None:
    _, out, _ = retouch("env", "openai", "--port", "9000")
    assert "export OPENAI_BASE_URL=http://127.0.0.1:9000/v1\n" in out
    _, out, _ = retouch("env", "fal", "--public-url", "https://edit.example")
    assert "export FAL_RUN_HOST=edit.example/fal/run\n" in out
    assert "export FAL_QUEUE_RUN_HOST=edit.example/fal/queue\n" in out
    _, out, _ = retouch("env", "runpod")
    assert "export RUNPOD_ENDPOINT_BASE_URL=http://127.0.0.1:8000/v2\n" in out
    code, _, err = retouch("env", "other")
    assert code == 1
    assert is_one_sentence(err), err


def test_a_bug_is_told_without_a_traceback(retouch: Retouch, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> str:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("retouch.cli.env.exports", broken)
    code, _, err = retouch("env", "openai")
    assert code == 1
    assert "ZeroDivisionError" in err
    assert is_one_sentence(err), err


def test_a_worker_gets_the_settings_of_its_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from retouch.cli.serve import as_variables

    given = (
        read(StoreSettings, data=tmp_path, database="postgresql://user:secret@db/x", retention_days=2),
        read(ModelSettings, model="null", accept_research_licence=True),
        read(NetworkSettings, allow_private=["a:1", "b"]),
    )
    for name, value in as_variables(*given).items():
        monkeypatch.setenv(name, value)
    assert (read(StoreSettings), read(ModelSettings), read(NetworkSettings)) == given
