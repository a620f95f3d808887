"""The options of safety, rewriting and provenance: what they do to `retouch edit`, and a sentence for a wrong one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from retouch import images
from retouch.catalog import checkpoint_named
from retouch.cli.policy import check_rewriter, check_safety, job_policy, provenance_of
from retouch.cli.serve import as_variables
from retouch.engine.engine import Engine
from retouch.engine.open_nsfw import OpenNsfw
from retouch.engine.pipelines.null import NullPipeline
from retouch.errors import InvalidSetting
from retouch.settings import ProvenanceSettings, RewriterSettings, SafetySettings, read
from tests.unit.cli.test_commands import Retouch, is_one_sentence, retouch  # noqa: F401 - a fixture
from tests.unit.engine.pipelines.test_image_classifiers import save

DEMO, REAL = checkpoint_named("demo"), checkpoint_named("qwen-image-edit-2511")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(images.encode(np.full((64, 96, 3), 120, np.uint8), "png"))
    return path


def edit(retouch: Retouch, photo: Path, *options: str) -> tuple[int, str, Path]:  # noqa: F811
    out = photo.parent / "out.png"
    code, _, err = retouch("edit", str(photo), "make it grey", "-o", str(out), "--model", "null", *options)
    return code, err, out


def test_an_edit_is_checked_and_a_refused_one_writes_nothing(retouch: Retouch, photo: Path) -> None:  # noqa: F811
    code, err, out = edit(retouch, photo, "--safety-threshold", "0")
    assert code == 1
    assert is_one_sentence(err)
    assert f"The image in '{photo}' was refused by the safety checker." in err
    assert not out.exists()


def test_a_flagged_result_is_not_written(retouch: Retouch, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    small = OpenNsfw().score(np.full((64, 96, 3), 120, np.uint8))
    code, err, out = edit(retouch, photo, "--safety-threshold", f"{small + 1e-4}", "--size", "96x64")
    assert code == 0, err
    assert out.exists()


def test_an_edit_with_the_checks_off_is_written(retouch: Retouch, photo: Path) -> None:  # noqa: F811
    code, _, out = edit(retouch, photo, "--safety-checker", "off", "--safety-threshold", "0")
    assert code == 0
    assert b"compositeWithTrainedAlgorithmicMedia" in out.read_bytes()


def test_files_are_not_marked_where_the_operator_wants_none(retouch: Retouch, photo: Path) -> None:  # noqa: F811
    code, _, out = edit(retouch, photo, "--provenance", "off")
    assert code == 0
    assert b"xmp" not in out.read_bytes()


def test_a_classifier_by_folder_is_used(retouch: Retouch, photo: Path, tmp_path: Path) -> None:  # noqa: F811
    folder = save(tmp_path / "vit", ("LABEL_0", "LABEL_1"))
    code, err, _ = edit(retouch, photo, "--safety-checker", str(folder))
    assert code == 1
    assert "--safety-labels" in err
    labels = ("--safety-labels", "LABEL_0", "--safety-threshold", "0")
    code, err, _ = edit(retouch, photo, "--safety-checker", str(folder), *labels)
    assert code == 1
    assert "refused by the safety checker" in err


@pytest.mark.parametrize(
    "options",
    [
        ("--safety-threshold", "1.5"),
        ("--safety-threshold", "-0.1"),
        ("--safety-failure", "maybe"),
        ("--safety-labels", "a,b"),
        ("--safety-checker", "/nowhere"),
        ("--prompt-checker", "/nowhere"),
        ("--prompt-checker", "resident"),
        ("--prompt-threshold", "0.5"),
        ("--provenance", "c2pa"),
        ("--provenance-cert", "x.pem"),
        ("--provenance", "watermark"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_nothing_is_written(
    retouch: Retouch,  # noqa: F811
    photo: Path,
    options: tuple[str, ...],
) -> None:
    code, err, out = edit(retouch, photo, *options)
    assert code == 1
    assert is_one_sentence(err), err
    assert options[0] in err
    assert not out.exists()


@pytest.mark.parametrize("option", ["prompt_checker", "rewriter"])
def test_the_demo_cannot_be_asked_in_words_and_is_refused_by_name(option: str) -> None:
    safety = read(SafetySettings, **({option: "resident"} if option == "prompt_checker" else {}))
    rewriter = read(RewriterSettings, **({option: "resident"} if option == "rewriter" else {}))

    def check(checkpoint) -> None:
        check_safety(safety, checkpoint)
        check_rewriter(rewriter, checkpoint)

    check(REAL)
    with pytest.raises(InvalidSetting, match=f"--{option.replace('_', '-')} resident needs .* that of 'demo' cannot"):
        check(DEMO)


@pytest.mark.parametrize(
    "settings",
    [
        {"rewriter": "nonsense"},
        {"rewriter": "ftp://host/v1"},
        {"rewriter": "http://user:pass@host/v1"},
        {"rewriter_model": "qwen"},
        {"rewriter_prompt": Path("/nowhere/rules.txt")},
    ],
)
def test_a_rewriter_that_cannot_be_is_refused_at_start(settings: dict[str, object]) -> None:
    with pytest.raises(InvalidSetting, match="--rewriter"):
        check_rewriter(read(RewriterSettings, **settings), DEMO)


def test_an_empty_file_of_rules_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rules.txt").write_text(" \n")
    with pytest.raises(InvalidSetting, match="is empty"):
        check_rewriter(read(RewriterSettings, rewriter_prompt=tmp_path / "rules.txt"), DEMO)


def test_the_key_of_the_rewriter_is_a_variable_and_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETOUCH_REWRITER_KEY", "secret-31")
    settings = read(RewriterSettings)
    assert settings.rewriter_key is not None
    assert settings.rewriter_key.get_secret_value() == "secret-31"
    assert "secret-31" not in repr(settings)
    assert "RETOUCH_REWRITER_KEY" not in as_variables(settings)


def test_settings_reach_a_worker_as_they_were_given(monkeypatch: pytest.MonkeyPatch) -> None:
    given = read(
        SafetySettings,
        safety_checker="some/name",
        safety_threshold=0.25,
        safety_labels="a, b",
        safety_failure="pass",
        safety_enforce=True,
    )
    for name, value in as_variables(given, read(ProvenanceSettings, provenance="off")).items():
        monkeypatch.setenv(name, value)
    assert read(SafetySettings) == given
    assert provenance_of(read(ProvenanceSettings)) is images.NO_PROVENANCE


def test_the_serving_process_loads_no_torch() -> None:
    code = (
        "import sys; import retouch.cli.serve, retouch.cli.policy;"
        "sys.exit(bool({'torch', 'transformers', 'onnxruntime'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_resident_rewriter_that_was_not_loaded_is_refused_by_name() -> None:
    pipeline = NullPipeline()  # it has no language model, as one whose encoder is offloaded has none to rewrite
    given = read(SafetySettings, safety_checker="off"), read(RewriterSettings, rewriter="resident")
    with pytest.raises(InvalidSetting, match="--rewriter resident needs the text encoder on the GPU, and --offload"):
        job_policy(*given, read(ProvenanceSettings), "cpu", Engine(pipeline), pipeline)
