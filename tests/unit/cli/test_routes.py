"""`retouch routes`: what a file comes to, and what is wrong with it, without a connection, and without showing a key."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from retouch.catalog.routing import MODELS
from retouch.cli.main import run

Retouch = Callable[..., tuple[int, str, str]]
KEY = "fal-key-of-the-test-0001"

FILE = """
[upstreams.fal]
kind = "fal"
key = "env:FAL_KEY"
[[routes]]
model = "qwen-image-edit-plus"
when = { max_images = 3, keys = ["studio"] }
policy = "weighted"
targets = [{ to = "local", overflow_after_s = 20 }, { to = "fal", weight = 3 }]
[[routes]]
model = "*"
targets = [{ to = "local" }]
"""


@pytest.fixture
def retouch(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Retouch:
    """Runs `retouch routes …` in a folder with that file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FAL_KEY", KEY)
    Path("retouch.toml").write_text(FILE)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["retouch", "routes", *arguments])
        with pytest.raises(SystemExit) as ended:
            run()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def test_a_right_file_is_reported_with_its_upstreams_and_models(retouch: Retouch) -> None:
    code, out, _ = retouch("check")
    assert code == 0
    assert "retouch.toml is right." in out
    assert "fal: fal at https://queue.fal.run, key ••••" in out
    assert f"{len(MODELS)} models are led" in out
    assert KEY not in out


def test_a_wrong_file_ends_with_each_line_and_reason(retouch: Retouch) -> None:
    Path("wrong.toml").write_text(FILE.replace("weighted", "wieghted").replace('"env:FAL_KEY"', f'"{KEY}"'))
    code, out, err = retouch("check", "wrong.toml")
    assert code == 1
    assert out == ""
    assert "wrong.toml, line 4: a key is never written here itself" in err
    assert "wrong.toml, line 8: 'policy' must be one of ordered, weighted" in err
    assert KEY not in err


def test_the_routes_of_a_model_are_shown_in_order(retouch: Retouch) -> None:
    code, out, _ = retouch("show", "qwen-image-edit-2511")
    assert code == 0
    lines = [line.strip() for line in out.splitlines()]
    assert lines[0] == "qwen-image-edit-plus: up to 3 images, keys studio"
    assert "1. local: our own queue, last when the wait is over 20 s, weight 1" in lines
    assert "2. fal/fal-ai/qwen-image-edit-plus: 0.03 USD a megapixel, weight 3" in lines
    assert "emulated: mask, output_quality, enable_prompt_expansion" in lines
    assert lines[-2:] == ["1. local: our own queue", ""]


def test_a_forced_target_and_all_models_can_be_shown(retouch: Retouch) -> None:
    assert retouch("show", "fal/fal-ai/qwen-image-2/pro/edit")[1].startswith("fal/fal-ai/qwen-image-2/pro/edit: every")
    code, out, _ = retouch("show", "--file", "retouch.toml")
    assert code == 0
    assert out.count("every request") == len(MODELS)


def test_the_variable_names_the_file(retouch: Retouch, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("retouch.toml").rename("other.toml")
    assert "retouch.toml cannot be read: No such file" in retouch("check")[2]
    monkeypatch.setenv("RETOUCH_ROUTES", "other.toml")
    assert retouch("check")[0] == 0


def test_a_model_that_no_route_is_for_is_one_sentence(retouch: Retouch) -> None:
    code, _, err = retouch("show", "flux")
    assert code == 1
    assert err.startswith("retouch: No route of retouch.toml is for 'flux'; there are models qwen-image-edit,")


def test_a_file_is_read_without_a_database_or_an_http_library() -> None:
    code = (
        "import sys; import retouch.cli.routes, retouch.cli.doctor;"
        "sys.exit(bool({'sqlalchemy', 'httpx2', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
