"""A folder of Qwen-Image-2.1 to a pipeline on a device, whole and in the network's own dtype."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKLQwenImage21, QwenImage21Transformer2DModel
from transformers import Qwen2Tokenizer, Qwen2VLImageProcessorPil, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from retouch.catalog import Checkpoint
from retouch.engine.pipelines.folders import json_of, reading, whole
from retouch.engine.pipelines.memory_plan import ROOM_BYTES, Plan
from retouch.engine.pipelines.offload import DeviceWeights, tensors_of
from retouch.engine.pipelines.qwen_image_21 import OpaqueVae, PromptEncoder, QwenImage21
from retouch.engine.sampler import NoiseSchedule
from retouch.errors import UnknownModel, UnsupportedParameter

CLASS_NAME = "QwenImage21Pipeline"

PARTS = ("scheduler", "processor", "text_encoder", "vae", "transformer")


def plan_of_21(folder: Path) -> Plan:
    """What it needs of a GPU in bfloat16, counted on the meta device."""
    with reading("configuration", folder), torch.device("meta"):
        encoder = Qwen3VLForConditionalGeneration(Qwen3VLConfig.from_pretrained(folder / "text_encoder"))
        modules = (
            encoder.model,
            QwenImage21Transformer2DModel.from_config(json_of(folder / "transformer" / "config.json")),
            AutoencoderKLQwenImage21.from_config(json_of(folder / "vae" / "config.json")),
        )
    weights = sum(parameter.numel() for module in modules for parameter in module.parameters())
    return Plan("bf16", "none", 2 * weights + ROOM_BYTES)


def assemble_21(checkpoint: Checkpoint, folder: Path, device: torch.device, dtype: torch.dtype) -> QwenImage21:
    """Read every part of a folder and put them together. Raises UnknownModel, UnsupportedParameter."""
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise UnknownModel(f"'{folder}' is not complete: {', '.join(missing)} missing.", field="model")
    with reading("list of parts", folder):
        if json_of(folder / "model_index.json").get("sample_sigmas"):
            raise UnsupportedParameter(
                f"'{folder}' runs with sigmas of its own, as the Turbo checkpoint does; this engine has none of these.",
                field="model",
            )
    with reading("vae", folder):
        vae = OpaqueVae(whole(AutoencoderKLQwenImage21, folder / "vae", device, torch_dtype=dtype))
    with reading("transformer", folder):
        transformer = whole(QwenImage21Transformer2DModel, folder / "transformer", device, torch_dtype=dtype)
        if not transformer.config.causal_condition:
            raise UnsupportedParameter(f"'{folder}' is not causal, and its prefix cannot be kept.", field="model")
    with reading("text encoder", folder):
        encoder = whole(
            Qwen3VLForConditionalGeneration, folder / "text_encoder", device, unneeded="lm_head.", dtype=dtype
        )
        text_encoder = PromptEncoder(
            encoder.model,
            Qwen2Tokenizer.from_pretrained(folder / "processor"),
            Qwen2VLImageProcessorPil.from_pretrained(folder / "processor"),
            max_prompt_tokens=checkpoint.max_prompt_tokens,
        )
    return QwenImage21(
        checkpoint,
        text_encoder=text_encoder,
        vae=vae,
        transformer=transformer,
        schedule=NoiseSchedule.from_config(json_of(folder / "scheduler" / "scheduler_config.json")),
        device=device,
        dtype=dtype,
        weights=DeviceWeights([t for m in (vae, transformer, encoder.model) for t in tensors_of(m)], device),
    )
