"""The command line as a person meets it: what it prints, and one kind sentence when something is wrong."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from retouch import images
from retouch.accounts.keys import Keys
from retouch.accounts.upstream_keys import UpstreamKeys
from retouch.cli.database import open_database
from retouch.cli.main import run
from retouch.settings import ModelSettings, NetworkSettings, StoreSettings, read
from tests.harness import png

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


def test_an_edit_writes_the_image_and_tells_its_seed(retouch: Retouch, photo: Path, tmp_path: Path) -> None:
    out_file = tmp_path / "out.png"
    code, out, _ = retouch("edit", str(photo), "make it grey", "-o", str(out_file), "--model", "null", "--seed", "7")
    assert code == 0
    assert "seed 7" in out
    assert images.decode(out_file.read_bytes()).shape[2] == 3


def test_the_doctor_says_what_is_here_and_what_a_checkpoint_needs(retouch: Retouch) -> None:
    code, out, _ = retouch("doctor", "--model", "qwen-image-edit-2511", "--device", "cpu")
    assert "attention on cpu: torch's flash_attention" in out
    assert code == 0
    assert "torch 2." in out
    assert "edits run on the processor" in out
    assert (
        "needs of a GPU, with room for an edit of a megapixel: bf16: 46.8 GB, bf16 with the encoder swapped: 31.3 GB, fp8: 26.7 GB"
        in out
    )
    assert "so on cards from 48 GB: bf16; 32 GB: bf16 with the encoder swapped; 20 GB: fp8 with the" in out


def test_the_bench_measures_what_there_is(retouch: Retouch) -> None:
    code, out, _ = retouch("bench", "--model", "null", "--rounds", "1")
    assert code == 0
    assert [line.split(":")[0] for line in out.splitlines()[1:]] == ["none", "regular", "high"]
    assert "regular: not there" in out


def test_a_precision_that_is_not_there_is_one_sentence(retouch: Retouch, photo: Path, tmp_path: Path) -> None:
    code, _, err = retouch("edit", str(photo), "x", "-o", str(tmp_path / "a.png"), "--precision", "fp4")
    assert code == 1
    assert is_one_sentence(err)
    assert "auto, bf16, fp8, int8" in err


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


@pytest.mark.parametrize("place", ["missing/out.png", "missing/deeper/out.png", "photo.png/out.png", "folder.png"])
def test_a_place_that_cannot_be_written_is_reported_before_the_work(
    retouch: Retouch, photo: Path, tmp_path: Path, place: str
) -> None:
    """The image to read is not even there: had anything been begun, that would be the message."""
    (tmp_path / "folder.png").mkdir()
    absent = str(photo.with_name("absent.png"))
    code, _, err = retouch("edit", absent, "x", "-o", str(tmp_path / place), "--model", "null")
    assert code == 1
    assert is_one_sentence(err), err
    assert str((tmp_path / place).parent) in err
    assert absent not in err


def run_apart(*arguments: str | bytes, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """`retouch …` in a process of its own, for what belongs to the process: its arguments' bytes, its encoding."""
    command = [sys.executable, "-m", "retouch", *arguments]
    return subprocess.run(command, capture_output=True, env=os.environ | environment, timeout=60, check=False)


def test_bytes_that_are_not_utf_8_are_reported_in_a_sentence(photo: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out.png")
    done = run_apart(
        "edit", str(photo), "plus clair s'il te pla\u00eet".encode("latin-1"), "-o", out, "--model", "null"
    )
    assert done.returncode == 1
    assert is_one_sentence(done.stderr.decode()), done.stderr
    assert b"0xEE" in done.stderr
    done = run_apart("keys", "create", b"Andr\xe9", "--data", str(tmp_path))
    assert done.returncode == 1
    assert is_one_sentence(done.stderr.decode()), done.stderr


def test_a_file_name_that_is_not_utf_8_is_a_file_name(photo: Path, tmp_path: Path) -> None:
    out = os.fsencode(tmp_path) + b"/caf\xe9.png"
    done = run_apart("edit", str(photo), "x", "-o", out, "--model", "null")
    assert done.returncode == 0, done.stderr
    assert Path(os.fsdecode(out)).exists()
    assert b"caf\\udce9.png" in done.stdout


@pytest.mark.parametrize("encoding", ["ascii", "ascii:strict", "latin-1", "cp437"])
def test_a_poor_encoding_breaks_no_command(photo: Path, tmp_path: Path, encoding: str) -> None:
    out = tmp_path / "\u56fe.png"
    done = run_apart("edit", str(photo), "\u53d8\u4eae", "-o", str(out), "--model", "null", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert b"\\u56fe.png" in done.stdout
    done = run_apart("--help", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    done = run_apart("edit", "\u56fe\u2026.png", "x", "-o", str(out), PYTHONIOENCODING=encoding)
    assert done.returncode == 1
    assert is_one_sentence(done.stderr.decode("latin-1")), done.stderr


def test_an_unknown_option_is_reported_with_the_usage(retouch: Retouch) -> None:
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


def test_a_callers_own_key_to_a_provider_is_kept_and_never_shown(
    retouch: Retouch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, key = ("--data", str(tmp_path)), "r8-of-the-caller-0001"
    retouch("keys", "create", "studio", *data)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{key}\n"))
    code, out, err = retouch("keys", "store", "studio", "replicate", *data)
    assert code == 0
    assert "caller:replicate" in out
    assert key not in out + err
    with open_database(read(StoreSettings, data=tmp_path)) as database:
        stored = UpstreamKeys(database)
        assert stored.read(Keys(database).account_named("studio"), "replicate") == key
    assert "no longer" in retouch("keys", "forget", "studio", "replicate", *data)[1]
    assert "has no key" in retouch("keys", "forget", "studio", "replicate", *data)[1]
    code, _, err = retouch("keys", "forget", "nobody", "replicate", *data)
    assert code == 1
    assert is_one_sentence(err)


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


def test_a_bug_is_reported_without_a_traceback(retouch: Retouch, monkeypatch: pytest.MonkeyPatch) -> None:
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
