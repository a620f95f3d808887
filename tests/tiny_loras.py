"""Tiny random LoRAs for the tiny checkpoints, in the real files' formats and namings. Not a test itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from diffusers import QwenImageTransformer2DModel
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import nn

Naming: TypeAlias = Literal["diffusers", "diffusers with settings", "kohya", "lightning", "comfy", "peft"]

ATTENTION = ("attn.to_q", "attn.to_v", "attn.add_k_proj", "attn.to_add_out", "attn.to_out.0")
MLP = ("img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj")
MODULATION = ("img_mod.1", "txt_mod.1")
ENDS = ("img_in", "txt_in", "proj_out", "norm_out.linear", "time_text_embed.timestep_embedder.linear_1")

RANK = 3


def in_blocks(names: Sequence[str], blocks: int = 3) -> list[str]:
    return [f"transformer_blocks.{number}.{name}" for number in range(blocks) for name in names]


EVERYWHERE = (*in_blocks((*ATTENTION, *MLP, *MODULATION)), *ENDS)


def matrices(
    network: nn.Module, layers: Sequence[str], *, seed: int = 1, rank: int = RANK
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Down (rank, in) and up (out, rank) for each layer, of a size that shows in an image."""
    drawn = torch.Generator().manual_seed(seed)
    made = {}
    for name in layers:
        layer = network.get_submodule(name)
        down = torch.randn(rank, layer.in_features, generator=drawn) / layer.in_features**0.5
        made[name] = down, 0.2 * torch.randn(layer.out_features, rank, generator=drawn)
    return made


def write(
    file: Path, made: Mapping[str, tuple[torch.Tensor, torch.Tensor]], naming: Naming = "diffusers", *, alpha: float = 6
) -> Path:
    """The matrices as a trainer of that naming saves them; alpha: where the naming has one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    weights: dict[str, torch.Tensor] = {}
    metadata = {"format": "pt"}
    for name, (down, up) in made.items():
        match naming:
            case "diffusers" | "diffusers with settings":
                ends = {f"transformer.{name}.lora_A.weight": down, f"transformer.{name}.lora_B.weight": up}
            case "comfy":
                ends = {f"diffusion_model.{name}.lora_A.weight": down, f"diffusion_model.{name}.lora_B.weight": up}
            case "kohya":
                flat = "lora_unet_" + name.replace(".", "_")
                ends = {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up}
                ends[f"{flat}.alpha"] = torch.tensor(alpha)
            case "lightning":
                ends = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
                ends[f"{name}.alpha"] = torch.tensor(alpha)
            case "peft":
                start = f"base_model.model.{name}"
                ends = {f"{start}.lora_A.weight": down, f"{start}.lora_B.weight": up}
        weights |= {key: value.contiguous() for key, value in ends.items()}
    if naming == "diffusers with settings":
        settings = {
            "r": RANK,
            "lora_alpha": alpha,
            "rank_pattern": {},
            "alpha_pattern": {next(iter(made)): 2 * alpha},
            "target_modules": list(made),
        }
        metadata[LORA_ADAPTER_METADATA_KEY] = json.dumps(
            {f"transformer.{key}": value for key, value in settings.items()}
        )
    save_file(weights, file, metadata=metadata)
    return file


def save_by_peft(folder: Path, network: QwenImageTransformer2DModel, layers: Sequence[str], *, alpha: int) -> Path:
    """What peft itself writes for a trained adapter: weights and a file of settings."""
    wrapped = get_peft_model(network, LoraConfig(r=RANK, lora_alpha=alpha, target_modules=list(layers)))
    drawn = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.2 * torch.randn(weight.shape, generator=drawn))
    wrapped.save_pretrained(folder)
    return folder / "adapter_model.safetensors"
