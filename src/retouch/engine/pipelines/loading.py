"""A folder in the layout of the hub to a pipeline on a device.

Reads `model_index.json` to know which family it is and builds each part with its stock class, sharded
safetensors included; never runs code or pickles from the folder. Computes nothing, and leaves to `memory_plan.py` in
which precision and with what offloaded a checkpoint is loaded.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    AutoencoderKLQwenImage21,
    QwenImage21Transformer2DModel,
    QwenImageTransformer2DModel,
)
from transformers import (
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLImageProcessorPil,
    Qwen3VLForConditionalGeneration,
)

from retouch.catalog import Checkpoint
from retouch.edit import LoraFile
from retouch.engine.pipeline import SILENT, Speaks
from retouch.engine.pipelines.denoising import FastNetwork, Network, PlainNetwork, compiled_block
from retouch.engine.pipelines.device import choose_device, kernel_of
from retouch.engine.pipelines.folders import class_name_of, dtype_on, find_folder, json_of, quiet, reading, whole
from retouch.engine.pipelines.hub import PARTS
from retouch.engine.pipelines.memory_plan import EXACT, FOUR_BITS, QWEN_IMAGE_21, Plan, plan_of
from retouch.engine.pipelines.modulation import Modulation, fingerprint_of, modulation_layers
from retouch.engine.pipelines.offload import HOST, DeviceWeights, OffloadedBlocks, offload_layers, tensors_of
from retouch.engine.pipelines.precision import STORAGE, compress, read_gguf
from retouch.engine.pipelines.previews import load_preview
from retouch.engine.pipelines.qwen_image_21 import OpaqueVae, PromptEncoder, QwenImage21
from retouch.engine.pipelines.qwen_image_edit import FIRST, PLUS, QwenImageEdit, Rules
from retouch.engine.pipelines.text_encoder import LanguageHeads, TextEncoder, language_heads
from retouch.engine.pipelines.vae import FoldedVae, StockVae
from retouch.engine.sampler import NoiseSchedule
from retouch.errors import UnknownModel, UnsupportedParameter

logger = logging.getLogger(__name__)

FAMILIES: dict[str, Rules] = {"QwenImageEditPipeline": FIRST, "QwenImageEditPlusPipeline": PLUS}

UNSUPPORTED_OPTIONS = ("guidance_embeds", "use_additional_t_cond", "use_layer3d_rope")
"""Switches of the transformer that other members of the family use."""

PARTS_21 = ("scheduler", "processor", "text_encoder", "vae", "transformer")
"""Of Qwen-Image-2.1, whose processor holds the tokenizer."""


def load(
    checkpoint: Checkpoint,
    *,
    device: str,
    compat: str | None,
    folder: Path | None,
    speaks: Speaks,
    precision: str = "auto",
    offload: str = "auto",
    fast_lora: LoraFile | None = None,
    compiled: bool = False,
) -> QwenImageEdit | QwenImage21:
    """See `load_pipeline`."""
    target = choose_device(device)
    dtype = dtype_on(target, checkpoint)
    kernel = kernel_of(target, dtype)
    logger.info("attention by torch's %s", kernel)
    if target.type == "cuda" and checkpoint.full_precision:
        # By default convolutions round to ten bits there: on the demo that leaves 26 dB, simulated on a CPU.
        torch.backends.cudnn.allow_tf32 = False
    folder = folder or find_folder(checkpoint)
    another = class_name_of(folder) == QWEN_IMAGE_21
    if another and not checkpoint.research_only:
        raise UnsupportedParameter(
            f"'{folder}' is a Qwen-Image-2.1, which is for research only: name its folder 'Qwen-Image-2.1' and pass "
            "--accept-research-licence.",
            field="model",
        )
    rules = None if another else read_rules(folder)
    _check_compiled(checkpoint, target, compiled=compiled, ours=rules is not None and compat is None)
    free = torch.cuda.mem_get_info(target)[0] if target.type == "cuda" else None
    plan = plan_of(checkpoint, folder, precision, offload, dtype, free_bytes=free, speaks=speaks)
    if rules is None and compat is not None:
        raise UnsupportedParameter(f"'{checkpoint.name}' has no compat mode: it computes as diffusers does anyway.")
    if plan != EXACT and compat is not None:
        raise UnsupportedParameter(f"compat mode computes with the weights as they are, not in {plan}.")
    if plan.offload != "none" and speaks.rewrites:
        logger.info("no resident rewriter: the text encoder would be brought to the device for every word")
        speaks = replace(speaks, rewrites=False)
    word = "fp32" if plan.precision == "bf16" and dtype == torch.float32 else plan.precision
    facts = {"attention": kernel, "precision": word, "offload": plan.offload}
    with quiet(), torch.inference_mode():
        if rules is None:
            assert fast_lora is None, "its row takes no LoRAs"
            whole_21 = assemble_21(checkpoint, folder, target, dtype)
            whole_21.facts = facts
            return whole_21
        exactly = compat is not None
        loaded = assemble(
            checkpoint, rules, folder, target, dtype, compat=exactly, speaks=speaks, plan=plan, compiled=compiled
        )
        loaded.facts = facts
        if fast_lora is not None:
            loaded.use_fast_lora(fast_lora)
    return loaded


def _check_compiled(checkpoint: Checkpoint, device: torch.device, *, compiled: bool, ours: bool) -> None:
    """Raise UnsupportedParameter where blocks cannot be compiled. ours: whether they run through `FastNetwork`."""
    if compiled and device.type != "cuda":
        message = "--compile is for a GPU; on a processor the network's blocks run as they are."
        raise UnsupportedParameter(message, field="compile")
    if compiled and not ours:
        message = f"'{checkpoint.name}', or its compat mode, runs the stock blocks, which are not compiled."
        raise UnsupportedParameter(message, field="compile")


def read_rules(folder: Path) -> Rules:
    """Which family a folder belongs to; raises UnknownModel or UnsupportedParameter when it is none of ours."""
    name = class_name_of(folder)
    if name not in FAMILIES:
        names = ", ".join((*FAMILIES, QWEN_IMAGE_21))
        raise UnsupportedParameter(f"'{folder}' is a {name}; this engine runs {names}.", field="model")
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise UnknownModel(f"'{folder}' is not complete: {', '.join(missing)} missing.", field="model")
    return FAMILIES[name]


def assemble(
    checkpoint: Checkpoint,
    rules: Rules,
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    *,
    compat: bool,
    speaks: Speaks = SILENT,
    plan: Plan = EXACT,
    disk: Path | None = None,
    compiled: bool = False,
) -> QwenImageEdit:
    """Read every part of a complete folder and put them together. disk: see `OffloadedBlocks`."""
    with reading("vae", folder):
        vae = whole(AutoencoderKLQwenImage, folder / "vae", device, torch_dtype=dtype)
    channels = vae.config.z_dim
    codec = StockVae(vae) if compat else FoldedVae(vae)
    weights = tensors_of(codec)
    network: Network
    if compat:
        network = PlainNetwork(_transformer(folder, device, dtype))
        weights += tensors_of(network.transformer)
    else:
        network = _fast_network(folder, device, dtype, plan, disk, compiled=compiled)
        away = [] if network.offloaded is None else [network.transformer.transformer_blocks]
        weights += tensors_of(network.transformer, without=[*modulation_layers(network.transformer), *away])
    text_encoder, heads = _text_encoder(
        checkpoint, rules, folder, device, dtype, compat=compat, speaks=speaks, plan=plan, disk=disk
    )
    if plan.offload == "none":
        weights += tensors_of(text_encoder.model)
    weights += [] if heads is None else [head for head in (heads.whole, heads.answers) if head is not None]
    return QwenImageEdit(
        checkpoint,
        rules,
        text_encoder=text_encoder,
        vae=codec,
        network=network,
        schedule=NoiseSchedule.from_config(json_of(folder / "scheduler" / "scheduler_config.json")),
        preview_map=load_preview(folder, device),
        latent_channels=channels,
        device=device,
        dtype=dtype,
        compat=compat,
        heads=heads,
        weights=DeviceWeights(weights, device),
    )


def _fast_network(
    folder: Path, device: torch.device, dtype: torch.dtype, plan: Plan, disk: Path | None, *, compiled: bool
) -> FastNetwork:
    transformer = _transformer(folder, HOST, dtype, plan.file)
    kept = frozenset(modulation_layers(transformer))
    if plan.precision == "nf4" or plan.precision in STORAGE:
        with reading("transformer", folder):
            compress(transformer.transformer_blocks, plan.precision, kept, device)
    modulation, offloaded = None, None
    away = plan.offload == "blocks"
    if device != HOST:
        with reading("transformer", folder):
            place(transformer, device, without=transformer.transformer_blocks if away else None)
        fingerprint = fingerprint_of(folder / "transformer", *(() if plan.file is None else (plan.file,)))
        modulation = Modulation(transformer, folder=tables_folder(), fingerprint=fingerprint)
    if away:
        offloaded = OffloadedBlocks(transformer.transformer_blocks, device, disk=_below(disk, "blocks"))
    return FastNetwork(transformer, modulation, offloaded, compiled_block() if compiled else None)


def _below(disk: Path | None, name: str) -> Path | None:
    return None if disk is None else disk / name


def _transformer(
    folder: Path, device: torch.device, dtype: torch.dtype, file: Path | None = None
) -> QwenImageTransformer2DModel:
    """file: in GGUF, instead of the folder's weights."""
    with reading("transformer", folder):
        config = json_of(folder / "transformer" / "config.json")
        for option in UNSUPPORTED_OPTIONS:
            if config.get(option):
                message = f"'{folder}' uses '{option}', which this engine does not have."
                raise UnsupportedParameter(message, field="model")
        if file is not None:
            return read_gguf(file, folder / "transformer", dtype)
        return whole(QwenImageTransformer2DModel, folder / "transformer", device, torch_dtype=dtype)


def place(
    transformer: QwenImageTransformer2DModel, device: torch.device, *, without: torch.nn.Module | None = None
) -> None:
    """Move every weight to a device but those of the modulation, which a table replaces there, and of `without`."""
    stays = {*modulation_layers(transformer), *(() if without is None else without.modules())}
    # Those of bitsandbytes were made there.
    stays |= {each for each in transformer.modules() if type(each).__module__.startswith("bitsandbytes")}
    for module in transformer.modules():
        if module in stays:
            continue
        for name, weight in module.named_parameters(recurse=False):
            moved = weight.detach().to(device)
            # A quantized weight is a kind of parameter that knows its bits, and moves as one.
            own = isinstance(moved, torch.nn.Parameter)
            setattr(module, name, moved if own else torch.nn.Parameter(moved, requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))


def tables_folder() -> Path:
    """Where tables of modulation are kept: `$XDG_CACHE_HOME/retouch/modulation`, or under `~/.cache`."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "retouch" / "modulation"


def _text_encoder(
    checkpoint: Checkpoint,
    rules: Rules,
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    *,
    compat: bool,
    speaks: Speaks,
    plan: Plan = EXACT,
    disk: Path | None = None,
) -> tuple[TextEncoder, LanguageHeads | None]:
    unneeded = "" if speaks.any else "lm_head."
    storage = "fp8" if plan.precision in FOUR_BITS else plan.precision
    with reading("text encoder", folder):
        first = device if plan == EXACT else HOST
        model = whole(
            Qwen2_5_VLForConditionalGeneration, folder / "text_encoder", first, unneeded=unneeded, dtype=dtype
        )
        if storage in STORAGE:
            compress(model.model.language_model, storage)
        if plan.offload == "none":
            model.model.to(device)
        else:
            for name in ("visual", "language_model"):
                offload_layers(getattr(model.model, name), device, disk=_below(disk, name))
        encoder = TextEncoder(
            model.model,  # without the head that would predict words
            Qwen2Tokenizer.from_pretrained(folder / "tokenizer"),
            Qwen2VLImageProcessorPil.from_pretrained(folder / "processor"),
            numbered=rules.several,
            max_prompt_tokens=checkpoint.max_prompt_tokens,
            positions=not compat,
            device=device,
        )
    if not speaks.any:
        return encoder, None
    head = model.lm_head.weight.detach().to(device)
    return encoder, language_heads(head, encoder.tokenizer, whole=speaks.rewrites, answers=speaks.judges)


def assemble_21(checkpoint: Checkpoint, folder: Path, device: torch.device, dtype: torch.dtype) -> QwenImage21:
    """Read every part of a folder of Qwen-Image-2.1, whole and in the network's own dtype.

    Raises UnknownModel, UnsupportedParameter.
    """
    missing = [part for part in PARTS_21 if not (folder / part).is_dir()]
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
