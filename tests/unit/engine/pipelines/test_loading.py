"""What can be loaded, and one kind sentence for everything that cannot."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from retouch.catalog import Checkpoint, checkpoint_named
from retouch.edit import EditSpec
from retouch.engine.pipeline import Pipeline
from retouch.engine.pipelines import folders, load_pipeline, loading, memory_plan
from retouch.engine.pipelines.device import choose_device
from retouch.engine.pipelines.null import NullPipeline
from retouch.engine.pipelines.qwen_image_edit import FIRST, PLUS
from retouch.errors import OutOfMemory, UnknownModel, UnsupportedParameter
from retouch.images import Pixels
from tests import tiny_checkpoints, tiny_qwen_image_21
from tests.tiny_checkpoints import shared


def row(folder: Path) -> Checkpoint:
    return tiny_checkpoints.checkpoint(folder)


def test_the_null_pipeline_is_a_checkpoint_like_any_other() -> None:
    assert isinstance(load_pipeline(checkpoint_named("null")), NullPipeline)


@pytest.mark.parametrize(("device", "compat"), [("cpu", None), ("cpu", "diffusers")])
def test_compiling_is_refused_where_it_does_nothing(device: str, compat: str | None) -> None:
    with pytest.raises(UnsupportedParameter, match="--compile is for a GPU") as refused:
        load_pipeline(row(shared("plus")), device=device, compat=compat, compiled=True)
    assert refused.value.field == "compile"


def test_the_family_is_read_from_the_folder() -> None:
    assert loading.read_rules(shared("edit")) is FIRST
    assert loading.read_rules(shared("plus")) is PLUS


def edited(pipeline: Pipeline) -> Pixels:
    spec = EditSpec("make it blue, 42 times!", 64, 64, seed=1, steps=1, guidance_scale=2.0)
    state = pipeline.prepare(spec, [tiny_checkpoints.coloured_blocks(1, 64, 64)])
    pipeline.denoise([state])
    return pipeline.decode(state)


def test_another_folder_may_stand_in_for_the_source() -> None:
    folder = shared("plus")
    pipeline = load_pipeline(replace(row(folder), source="nobody/nothing"), device="cpu", folder=folder)
    np.testing.assert_array_equal(edited(pipeline), edited(load_pipeline(row(folder), device="cpu")))
    assert pipeline.facts == {"attention": "flash_attention", "precision": "fp32", "offload": "none"}


def test_a_folder_as_the_hub_publishes_it_gives_the_same_image(tmp_path: Path) -> None:
    published = tiny_checkpoints.publish(shared("plus-2511"), tmp_path / "published")
    assert len(list((published / "transformer").glob("*.safetensors"))) > 1
    ours, theirs = (load_pipeline(row(folder), device="cpu") for folder in (shared("plus-2511"), published))
    np.testing.assert_array_equal(edited(ours), edited(theirs))


@pytest.mark.parametrize("part", ["vae", "transformer", "text_encoder"])
def test_weights_that_are_cut_off_are_reported(tmp_path: Path, part: str) -> None:
    folder = shutil.copytree(shared("plus"), tmp_path / "model")
    [file] = (folder / part).glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UnknownModel, match=f"The {part.replace('_', ' ')} of .* cannot be read"):
        load_pipeline(row(folder))


@pytest.mark.parametrize("part", ["vae", "transformer", "text_encoder"])
def test_a_missing_weight_is_never_made_up(tmp_path: Path, part: str) -> None:
    folder = shutil.copytree(shared("plus"), tmp_path / "model")
    [file] = (folder / part).glob("*.safetensors")
    weights = load_file(file)
    removed = next(name for name in weights if "norm" in name or "attn" in name)
    save_file({name: weight for name, weight in weights.items() if name != removed}, file, metadata={"format": "pt"})
    with pytest.raises(UnknownModel, match="weights are missing"):
        load_pipeline(row(folder))


def test_a_broken_list_of_parts_is_reported(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(UnknownModel, match="cannot be read"):
        load_pipeline(row(tmp_path))


def test_research_weights_under_another_name_are_refused() -> None:
    with pytest.raises(UnsupportedParameter, match=r"is for research only: name its folder 'Qwen-Image-2\.1'"):
        load_pipeline(row(tiny_qwen_image_21.shared()), device="cpu")


def test_the_turbo_checkpoints_own_sigmas_are_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_qwen_image_21.shared(), tmp_path / "turbo")
    index = json.loads((folder / "model_index.json").read_text()) | {"sample_sigmas": [1.0, 0.5]}
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UnsupportedParameter, match="runs with sigmas of its own, as the Turbo checkpoint does"):
        load_pipeline(tiny_qwen_image_21.row(folder), device="cpu")


def test_the_second_architecture_is_loaded_whole() -> None:
    row = tiny_qwen_image_21.row(tiny_qwen_image_21.shared())
    with pytest.raises(UnsupportedParameter, match="whole in bf16 only"):
        load_pipeline(row, device="cpu", precision="fp8")
    with pytest.raises(UnsupportedParameter, match="whole in bf16 only"):
        memory_plan.plan_of(row, Path(row.source or ""), "auto", "encoder", torch.bfloat16, free_bytes=10**12)
    with pytest.raises(OutOfMemory, match="'tiny' does not fit"):
        memory_plan.plan_of(row, Path(row.source or ""), "auto", "auto", torch.bfloat16, free_bytes=10**9)
    plan = memory_plan.plan_of(row, Path(row.source or ""), "auto", "auto", torch.bfloat16, free_bytes=10**10)
    assert str(plan) == "bf16"


def test_an_unknown_compat_mode_is_refused() -> None:
    with pytest.raises(UnsupportedParameter, match="comfy"):
        load_pipeline(row(shared("plus")), compat="comfy")


def test_a_folder_that_is_not_there_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="There is no folder"):
        load_pipeline(row(tmp_path / "nowhere"))


def test_a_folder_without_a_model_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match=r"no model_index\.json"):
        load_pipeline(row(tmp_path))


def test_a_half_copied_folder_names_what_is_missing(tmp_path: Path) -> None:
    shutil.copy(shared("plus") / "model_index.json", tmp_path)
    (tmp_path / "vae").mkdir()
    with pytest.raises(UnknownModel, match="scheduler, tokenizer, processor, text_encoder, transformer missing"):
        load_pipeline(row(tmp_path))


def test_another_kind_of_model_names_what_would_do(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(UnsupportedParameter, match="is a FluxPipeline; this engine runs QwenImageEditPipeline"):
        load_pipeline(row(tmp_path))


def test_a_switch_of_another_member_of_the_family_is_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(shared("plus"), tmp_path / "model")
    config = json.loads((folder / "transformer" / "config.json").read_text())
    (folder / "transformer" / "config.json").write_text(json.dumps(config | {"use_layer3d_rope": True}))
    with pytest.raises(UnsupportedParameter, match="use_layer3d_rope"):
        load_pipeline(row(folder))


@pytest.mark.parametrize("device", ["abacus", "meta", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(UnsupportedParameter, match=device):
        choose_device(device)


def test_auto_takes_a_gpu_when_there_is_one() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_the_local_cache_is_enough_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UnknownModel, match="not on this machine"):
        load_pipeline(replace(row(tmp_path), source="Qwen/Qwen-Image-Edit-2511"))


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("zero_cond_t", [False, True], ids=["2509", "2511"])
def test_the_full_transformer_has_the_published_size(zero_cond_t: bool) -> None:
    with torch.device("meta"):
        transformer = QwenImageTransformer2DModel(zero_cond_t=zero_cond_t)
    assert count(transformer) == 20_430_401_088
    assert count(transformer.transformer_blocks[0]) == 339_831_296


def test_the_full_text_encoder_and_autoencoder_have_the_published_sizes() -> None:
    with torch.device("meta"):
        text_encoder = Qwen2_5_VLForConditionalGeneration(FULL_TEXT_ENCODER)
        vae = AutoencoderKLQwenImage()
    assert count(text_encoder) == 8_292_166_656
    assert count(text_encoder.lm_head) == 544_997_376
    assert count(vae) == 126_892_531


FULL_TEXT_ENCODER = Qwen2_5_VLConfig(
    text_config={
        "vocab_size": 152_064,
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
    vision_config={
        "out_hidden_size": 3584,
        "hidden_size": 1280,
        "depth": 32,
        "intermediate_size": 3420,
        "num_heads": 16,
    },
    tie_word_embeddings=False,
)


@pytest.mark.parametrize(
    ("name", "device", "dtype"),
    [
        ("demo", "cuda", torch.float32),
        ("demo", "cpu", torch.float32),
        ("qwen-image-edit-2511", "cuda", torch.bfloat16),
        ("qwen-image-edit-2511", "cpu", torch.float32),
    ],
)
def test_a_gpu_halves_the_precision_unless_the_weights_forbid_it(name: str, device: str, dtype: torch.dtype) -> None:
    assert folders.dtype_on(torch.device(device), checkpoint_named(name)) is dtype
