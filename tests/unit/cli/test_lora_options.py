"""`--lora`, `--lora-dir` and `--fast-lora`: what they give, and a sentence for a wrong one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from diffusers import QwenImageTransformer2DModel

from retouch import images
from retouch.catalog import CHECKPOINTS, FastLora, checkpoint_named
from retouch.cli.loras import fast_lora_file, lora_of_argument, with_fast_lora
from retouch.cli.serve import as_variables
from retouch.edit import Lora
from retouch.engine.pipelines.folders import PACKAGED_DEMO
from retouch.errors import InvalidSetting
from retouch.settings import LoraSettings, NetworkSettings, StoreSettings, read
from tests import tiny_loras
from tests.unit.cli.test_commands import Retouch, is_one_sentence, retouch  # noqa: F401 - a fixture

REAL, DEMO = checkpoint_named("qwen-image-edit-2511"), checkpoint_named("demo")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(images.encode(np.random.default_rng(1).integers(0, 255, (64, 96, 3), np.uint8), "png"))
    return path


@pytest.fixture(scope="module")
def style(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = QwenImageTransformer2DModel.from_pretrained(PACKAGED_DEMO / "transformer")
    made = tiny_loras.matrices(network, tiny_loras.in_blocks(("attn.to_q", "img_mlp.net.2"), 4))
    return tiny_loras.write(tmp_path_factory.mktemp("loras") / "style-2steps.safetensors", made)


def test_an_edit_here_takes_loras_and_a_few_step_one(retouch: Retouch, photo: Path, style: Path) -> None:  # noqa: F811
    made = {}
    for name, options in {
        "plain": (),
        "style": ("--lora", f"{style}=2"),
        "fast": ("--acceleration", "high", "--fast-lora", str(style)),
    }.items():
        out = photo.parent / f"{name}.png"
        checks = ("--safety-checker", "off", "--size", "128x128", "--seed", "1")
        code, _, err = retouch("edit", str(photo), "make it grayscale", "-o", str(out), *checks, *options)
        assert code == 0, err
        assert ("'high' ran 2 steps with a few-step LoRA" in " ".join(err.split())) == (name == "fast")
        made[name] = images.decode(out.read_bytes(), field="x").astype(int)
    assert np.abs(made["style"] - made["plain"]).mean() > 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--lora", "no/such"), "could not be fetched"),
        (("--lora", "{photo}"), "is no safetensors file"),
        (("--lora", "{style}=9"), "The field 'loras[0].scale' must be from 0 to 4, not 9."),
        (("--fast-lora", "x.safetensors"), "say --fast-lora-steps"),
        (("--fast-lora-steps", "4"), "--fast-lora-steps goes with --fast-lora."),
        (("--fast-lora", "x-4steps.safetensors", "--acceleration", "high"), "There is no LoRA 'x-4steps.safetensors'"),
        (("--fast-lora", "{photo}", "--fast-lora-steps", "4"), "is no safetensors file"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(
    retouch: Retouch,  # noqa: F811
    photo: Path,
    style: Path,
    *,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    says: str,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    given = [option.format(photo=photo, style=style) for option in options]
    out = photo.parent / "out.png"
    code, _, err = retouch("edit", str(photo), "make it grayscale", "-o", str(out), "--size", "128x128", *given)
    assert code == 1
    assert is_one_sentence(err.splitlines()[-1] + "\n"), err
    assert says in " ".join(err.split())
    assert not out.exists()


@pytest.mark.parametrize(
    ("path", "steps", "expected"),
    [
        (
            "lightx2v/Qwen-Image-Edit-2511-Lightning/Qwen-Image-Edit-2511-Lightning-4steps-V1.0-bf16.safetensors",
            None,
            4,
        ),
        ("/loras/lightning_8_steps.safetensors", None, 8),
        ("https://example.com/Lightning-8STEPS-v2.safetensors", None, 8),
        ("own.safetensors", 6, 6),
        ("lightning-8steps.safetensors", 4, 4),
    ],
)
def test_the_steps_come_from_the_name_or_the_option(path: str, steps: int | None, expected: int) -> None:
    first, second = with_fast_lora([REAL, DEMO], read(LoraSettings, fast_lora=path, fast_lora_steps=steps))
    assert first.fast_lora == FastLora(path, expected)
    assert second is DEMO


def test_a_checkpoint_without_a_network_takes_none() -> None:
    null = next(row for row in CHECKPOINTS if row.name == "null")
    with pytest.raises(InvalidSetting, match="takes no LoRAs here"):
        with_fast_lora([null], read(LoraSettings, fast_lora="x-4steps.safetensors"))


def test_the_operator_may_name_any_file_and_any_folder_with_one(style: Path, tmp_path: Path) -> None:
    store = read(StoreSettings, data=tmp_path)
    for path in (style, style.parent):
        [row] = with_fast_lora([DEMO], read(LoraSettings, fast_lora=str(path), fast_lora_steps=2))
        file = fast_lora_file(row, store, NetworkSettings())
        assert file is not None
        assert file.file == style
    assert fast_lora_file(DEMO, store, NetworkSettings()) is None


def test_settings_reach_the_worker(tmp_path: Path) -> None:
    settings = read(LoraSettings, lora_dir=tmp_path, fast_lora="a/b/c-4steps.safetensors")
    assert as_variables(settings) == {
        "RETOUCH_LORA_DIR": str(tmp_path),
        "RETOUCH_FAST_LORA": "a/b/c-4steps.safetensors",
    }
    with pytest.raises(InvalidSetting, match="--lora-dir"):
        read(LoraSettings, lora_dir=tmp_path / "no")


@pytest.mark.parametrize(
    ("text", "lora"),
    [
        ("a/b", Lora("a/b")),
        ("a/b=0.5", Lora("a/b", 0.5)),
        ("https://x/l?token=abc", Lora("https://x/l?token=abc")),
        ("https://x/l?token=abc=2", Lora("https://x/l?token=abc", 2.0)),
    ],
)
def test_a_scale_stands_behind_the_path(text: str, lora: Lora) -> None:
    assert lora_of_argument(text) == lora
