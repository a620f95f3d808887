"""A tiny random Qwen-Image-2.1 in the layout of the hub, of the stock classes. Not a test itself."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLQwenImage21, FlowMatchEulerDiscreteScheduler, QwenImage21Transformer2DModel
from transformers import Qwen2VLImageProcessorPil, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from retouch.catalog import Checkpoint, checkpoint_named
from tests.tiny_checkpoints import HUB_SCHEDULE, _shared_folder, build_tokenizer, checkpoint

AREA = 128 * 128

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
)
"""What of Qwen's own template the stock pipeline uses: the system's turn."""


@functools.cache
def shared() -> Path:
    """The folder, written once in a whole test run. It must not be changed."""
    return build(Path(_shared_folder().name) / "qwen-image-2.1")


def row(folder: Path) -> Checkpoint:
    """A catalogue row for it."""
    tiny, real = checkpoint(folder), checkpoint_named("qwen-image-2.1", accept_research_licence=True)
    return replace(
        real, name="tiny", source=str(folder), sizes=replace(tiny.sizes, grid=32), reference_area=AREA, vision_area=AREA,
        steps=3, max_prompt_tokens=64,
    )  # fmt: skip


def build(folder: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "video_pad")}
    ids |= {name: tokenizer.convert_tokens_to_ids(f"<|vision_{name}|>") for name in ("start", "end")}
    encoder = _spread(Qwen3VLForConditionalGeneration(_encoder_config(len(tokenizer), ids)))
    transformer = QwenImage21Transformer2DModel(
        in_channels=8,
        out_channels=8,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        context_in_dim=64,
        axes_dims_rope=(4, 6, 6),
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder / "processor")
    images = Qwen2VLImageProcessorPil(
        min_pixels=32 * 32, max_pixels=32 * 32 * 64, patch_size=16, temporal_patch_size=2, merge_size=2
    )
    images.save_pretrained(folder / "processor")
    encoder.save_pretrained(folder / "text_encoder")
    _vae().save_pretrained(folder / "vae")
    _spread(transformer, 3).save_pretrained(folder / "transformer")
    FlowMatchEulerDiscreteScheduler(**HUB_SCHEDULE).save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2))
    return folder


MODEL_INDEX: dict[str, Any] = {
    "_class_name": "QwenImage21Pipeline",
    "_diffusers_version": "0.42.1",
    "processor": ["transformers", "Qwen3VLProcessor"],
    "sample_sigmas": None,
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Qwen3VLForConditionalGeneration"],
    "transformer": ["diffusers", "QwenImage21Transformer2DModel"],
    "vae": ["diffusers", "AutoencoderKLQwenImage21"],
}


def _encoder_config(words: int, ids: dict[str, int]) -> Qwen3VLConfig:
    return Qwen3VLConfig(
        text_config={
            "vocab_size": words,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 2, 2], "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 16,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["start"],
        vision_end_token_id=ids["end"],
    )  # fmt: skip


def _vae() -> AutoencoderKLQwenImage21:
    return AutoencoderKLQwenImage21(
        base_dim=8,
        decoder_base_dim=8,
        z_dim=8,
        dim_mult=[1, 2, 2, 2, 2],
        num_res_blocks=1,
        latents_mean=[0.1 * channel for channel in range(8)],
        latents_std=[0.5 + 0.1 * channel for channel in range(8)],
    ).eval()


def _spread(model: Any, factor: float = 8) -> Any:
    """The default spread of .02 makes everything nearly the same."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(factor)
    return model.eval()
