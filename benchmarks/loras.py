"""What LoRAs cost: a forward with them beside one without, in turns, and reading a file for the large network.

    python benchmarks/loras.py                     # on a CPU: two blocks, 512 channels, 2,048 image tokens
    python benchmarks/loras.py --device cuda --layers 60 --width 3072 --tokens 8192 --dtype bfloat16

No download: weights are random, which changes no time. Ratios are to the plain forward of the same run.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from diffusers import QwenImageTransformer2DModel
from safetensors.torch import save_file
from torch import nn

from retouch.edit import EditSpec, LoraFile
from retouch.engine.pipeline import BatchKey, DenoiseState
from retouch.engine.pipelines.denoising import FastNetwork, Network
from retouch.engine.pipelines.loras import Loras

BLOCK = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0")
BLOCK += ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out")
BLOCK += ("img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2")
MODULATION = ("img_mod.1", "txt_mod.1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    given = parser.parse_args()
    device, dtype = torch.device(given.device), getattr(torch, given.dtype)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode(), device:
        forwards(given, Path(folder), device, dtype)
        reading(Path(folder))


def forwards(given: argparse.Namespace, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
    plain = FastNetwork(
        QwenImageTransformer2DModel(
            num_layers=given.layers, num_attention_heads=given.width // 128, zero_cond_t=True
        ).to(dtype)
    )
    fast, stock = Loras(plain, device), Loras(plain, device, exact=True)
    networks: dict[str, Network] = {"without": plain}
    for rank in (16, 64):
        file = written(folder / f"{rank}.safetensors", plain.transformer, rank, BLOCK)
        networks[f"rank {rank}"] = fast.network(fast.load([file]))
        networks[f"rank {rank}, in peft's order"] = stock.network(stock.load([file]))
    file = written(folder / "modulation.safetensors", plain.transformer, 16, (*BLOCK, *MODULATION))
    networks["rank 16, modulation too"] = fast.network(fast.load([file]))
    side = int((given.tokens // 2) ** 0.5)
    tables, steps = {}, {}
    states = {}
    for name, network in networks.items():
        states[name] = state = a_state(side, network, device)
        began = time.perf_counter()
        network.velocities(state, state.latents, 1.0)
        tables[name] = time.perf_counter() - began
    for _ in range(given.rounds):
        for name, network in networks.items():
            if device.type == "cuda":
                torch.cuda.synchronize()
            began = time.perf_counter()
            network.velocities(states[name], states[name].latents, 1.0)
            if device.type == "cuda":
                torch.cuda.synchronize()
            steps.setdefault(name, []).append(time.perf_counter() - began)
    for name, seconds in steps.items():
        ratios = [one / base for one, base in zip(seconds, steps["without"], strict=True)]
        print(
            f"{name:28} {statistics.median(seconds) * 1e3:8.1f} ms a forward, {statistics.median(ratios):.3f} x, "
            f"the first {tables[name] * 1e3:.0f} ms"
        )


def a_state(side: int, network: Network, device: torch.device) -> DenoiseState:
    channels = network.transformer.config.in_channels
    text = torch.randn(1, 260, network.transformer.config.joint_attention_dim, device=device, dtype=network.dtype)
    return DenoiseState(
        spec=EditSpec("", 16 * side, 16 * side, seed=0, steps=2),
        key=BatchKey((side, side), ((side, side),), guided=False),
        sigmas=(1.0, 0.5, 0.0),
        latents=torch.randn(1, side * side, channels, device=device),
        references=torch.randn(1, side * side, channels, device=device, dtype=network.dtype),
        prompt_embeds=text,
        negative_embeds=None,
    )


def written(file: Path, network: nn.Module, rank: int, names: tuple[str, ...]) -> LoraFile:
    weights = {}
    for block, layers in enumerate(network.transformer_blocks):  # type: ignore[arg-type, var-annotated]
        for name in names:
            layer = layers.get_submodule(name)
            start = f"transformer_blocks.{block}.{name}"
            weights[f"{start}.lora_down.weight"] = torch.randn(rank, layer.in_features, device="cpu").bfloat16()
            weights[f"{start}.lora_up.weight"] = torch.randn(layer.out_features, rank, device="cpu").bfloat16()
            weights[f"{start}.alpha"] = torch.tensor(float(rank), device="cpu")
    save_file(weights, file)
    return LoraFile(file, 1.0, file.name, "loras[0]", file.stat().st_size)


def reading(folder: Path) -> None:
    """A file for every layer of 60 blocks, new and known."""
    with torch.device("meta"):
        large = QwenImageTransformer2DModel(zero_cond_t=True)
    file = written(folder / "large.safetensors", large, 64, (*BLOCK, *MODULATION))
    with torch.device("meta"):
        loras = Loras(FastNetwork(large), torch.device("cpu"))
    for name in ("new", "known"):
        began = time.perf_counter()
        with torch.device("cpu"):
            loras.load([file])
        print(f"a file of {file.size_bytes / 1e9:.2f} GB, {name}: {time.perf_counter() - began:.2f} s")


if __name__ == "__main__":
    main()
