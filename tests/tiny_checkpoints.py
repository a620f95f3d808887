"""Tiny random checkpoints in the layout of the hub, of the same classes as the 20-billion-parameter ones.

Written in half a second, one to two megabytes each, without a download. They edit nothing sensible; they
take every code path that the real weights take. Not a test itself.
"""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler, QwenImageTransformer2DModel
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer, Qwen2VLImageProcessorPil

from retouch.catalog import Checkpoint
from retouch.images import Pixels
from retouch.sizes import SizeProfile

Kind: TypeAlias = Literal["edit", "plus", "plus-2511"]

REFERENCE_AREA = 128 * 128
VISION_AREA = 64 * 64

TEMPLATE = (
    "<|im_start|>system\nDescribe the key features of the input image (color, shape, size, texture, objects, "
    "background), then explain how the user's text instruction should alter or modify the image. Generate a new image "
    "that meets the user's requirements while maintaining consistency with the original input where appropriate."
    "<|im_end|>\n<|im_start|>user\n"
)

HUB_SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 0.9,
    "base_image_seq_len": 256,
    "max_image_seq_len": 8192,
    "shift_terminal": 0.02,
    "time_shift_type": "exponential",
}

SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip

_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@functools.cache
def shared(kind: Kind) -> Path:
    """The folder of a tiny checkpoint, written once in a whole test run. It must not be changed."""
    return build(Path(_shared_folder().name) / kind, kind)


@functools.cache
def _shared_folder() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="retouch-tiny-")
    atexit.register(folder.cleanup)
    return folder


def coloured_blocks(seed: int, width: int, height: int) -> Pixels:
    """Coloured blocks, the same for the same arguments."""
    cells = np.random.default_rng(seed).integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    return np.ascontiguousarray(cells.repeat(16, 0).repeat(16, 1)[:height, :width])


def checkpoint(folder: Path) -> Checkpoint:
    """A catalogue row for a tiny folder."""
    areas = (64 * 64, 128 * 128, 256 * 256)
    return Checkpoint(
        "tiny",
        source=str(folder),
        sizes=SizeProfile(
            tiers=areas, default_area=areas[1], min_area=areas[0], max_area=areas[2], max_output_area=areas[2]
        ),
        max_images=4,
        steps=3,
        guidance_scale=4.0,
        reference_area=REFERENCE_AREA,
        vision_area=VISION_AREA,
        max_prompt_tokens=64,
    )


def build(folder: Path, kind: Kind = "plus-2511", *, seed: int = 0) -> Path:
    """Write a tiny checkpoint of `kind` into `folder` and return it."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    text_encoder = build_text_encoder(tokenizer)
    vae = build_vae()
    transformer = build_transformer(text_encoder.config.text_config.hidden_size, zero_cond_t=kind == "plus-2511")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder / "tokenizer")
    tokenizer.save_pretrained(folder / "processor")
    image_processor = Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=28 * 28 * 64)
    image_processor.save_pretrained(folder / "processor")
    text_encoder.save_pretrained(folder / "text_encoder")
    vae.save_pretrained(folder / "vae")
    transformer.save_pretrained(folder / "transformer")
    FlowMatchEulerDiscreteScheduler(**HUB_SCHEDULE).save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps(model_index(kind), indent=2))
    return folder


def publish(source: Path, folder: Path) -> Path:
    """The same checkpoint as the hub has them: older weight names, a tokenizer in three files, weights in shards."""
    shutil.copytree(source, folder)
    QwenImageTransformer2DModel.from_pretrained(source / "transformer").save_pretrained(
        _emptied(folder / "transformer"), max_shard_size="200KB"
    )
    weights = folder / "text_encoder" / "model.safetensors"
    old_names = {"model.language_model.": "model.", "model.visual.": "visual."}
    renamed = {}
    for name, weight in load_file(weights).items():
        prefix = next((prefix for prefix in old_names if name.startswith(prefix)), "")
        renamed[old_names.get(prefix, "") + name.removeprefix(prefix)] = weight
    save_file(renamed, weights, metadata={"format": "pt"})
    state = json.loads((source / "tokenizer" / "tokenizer.json").read_text())
    write_old_tokenizer(_emptied(folder / "tokenizer"), state)
    return folder


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder)
    folder.mkdir()
    return folder


def write_old_tokenizer(folder: Path, state: dict[str, Any]) -> None:
    """The slow tokenizer's files from a fast tokenizer's `tokenizer.json`."""
    model, added = state["model"], state["added_tokens"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in model["merges"]))
    (folder / "added_tokens.json").write_text(json.dumps({token["content"]: token["id"] for token in added}))
    config = {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in added},
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 131_072,
        "tokenizer_class": "Qwen2Tokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def model_index(kind: Kind) -> dict[str, Any]:
    return {
        "_class_name": "QwenImageEditPipeline" if kind == "edit" else "QwenImageEditPlusPipeline",
        "_diffusers_version": "0.36.0",
        "processor": ["transformers", "Qwen2VLProcessor"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "Qwen2_5_VLForConditionalGeneration"],
        "tokenizer": ["transformers", "Qwen2Tokenizer"],
        "transformer": ["diffusers", "QwenImageTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKLQwenImage"],
    }


def build_tokenizer(*, merges: bool = True) -> Qwen2Tokenizer:
    """A byte-level BPE that makes each word of the template one token, so the prefix has the real 64.

    merges=False leaves single bytes, and the prefix has 320.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=800 if merges else 256,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    text = TEMPLATE.replace("<|im_start|>", "\n").replace("<|im_end|>", "\n")
    tokenizer.train_from_iterator([text, "assistant\nPicture 1: "] * 3, trainer)
    state = json.loads(tokenizer.to_str())["model"]
    pairs = [tuple(merge) for merge in state["merges"]]
    built = Qwen2Tokenizer(vocab=state["vocab"], merges=pairs)
    built.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
    return built


def build_text_encoder(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLForConditionalGeneration:
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "video_pad", "vision_start")}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "bos_token_id": None,
            "eos_token_id": None,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1],
        },
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    with torch.no_grad():  # the default spread of .02 makes everything nearly the same sentence
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    return model.eval()


def build_vae(base_dim: int = 8) -> AutoencoderKLQwenImage:
    return AutoencoderKLQwenImage(
        base_dim=base_dim,
        z_dim=4,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[0.5, 0.7, 0.6, 0.4],
    ).eval()


def build_transformer(text_width: int, *, zero_cond_t: bool) -> QwenImageTransformer2DModel:
    return QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=3,
        num_attention_heads=2,
        attention_head_dim=16,
        joint_attention_dim=text_width,
        axes_dims_rope=(4, 6, 6),
        zero_cond_t=zero_cond_t,
    ).eval()
