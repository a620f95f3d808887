"""A folder in the layout of the hub to a pipeline on a device.

Reads `model_index.json` to know which family it is and builds each part with its stock class, sharded
safetensors included; never runs code or pickles from the folder. Does not compute anything.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from safetensors import SafetensorError
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer, Qwen2VLImageProcessorPil

from retouch.catalog import Checkpoint
from retouch.engine.pipeline import SILENT, Speaks
from retouch.engine.pipelines import memory_plan
from retouch.engine.pipelines.denoising import FastNetwork, Network, PlainNetwork
from retouch.engine.pipelines.hub import PARTS, weights_of
from retouch.engine.pipelines.memory_plan import Plan
from retouch.engine.pipelines.modulation import Modulation, fingerprint_of, modulation_layers
from retouch.engine.pipelines.offload import HOST, DeviceWeights, OffloadedBlocks, offload_layers, tensors_of
from retouch.engine.pipelines.precision import STORAGE, compress
from retouch.engine.pipelines.previews import load_preview
from retouch.engine.pipelines.qwen_image_edit import FIRST, PLUS, QwenImageEdit, Rules
from retouch.engine.pipelines.speaking import LanguageHeads, language_heads
from retouch.engine.pipelines.text_encoding import TextEncoder
from retouch.engine.pipelines.vae import FoldedVae, StockVae
from retouch.engine.sampler import NoiseSchedule
from retouch.errors import OutOfMemory, UnknownModel, UnsupportedParameter

logger = logging.getLogger(__name__)

FAMILIES: dict[str, Rules] = {"QwenImageEditPipeline": FIRST, "QwenImageEditPlusPipeline": PLUS}

PACKAGED_DEMO = Path(__file__).parents[2] / "demo_model"

UNSUPPORTED_OPTIONS = ("guidance_embeds", "use_additional_t_cond", "use_layer3d_rope")
"""Switches of the transformer that other members of the family use."""


def load(
    checkpoint: Checkpoint,
    *,
    device: str,
    compat: str | None,
    folder: Path | None,
    speaks: Speaks,
    precision: str = "auto",
    offload: str = "auto",
) -> QwenImageEdit:
    """See `load_pipeline`."""
    target = choose_device(device)
    dtype = dtype_on(target, checkpoint)
    if target.type == "cuda" and checkpoint.full_precision:
        # By default convolutions round to ten bits there: on the demo that leaves 26 dB, simulated on a CPU.
        torch.backends.cudnn.allow_tf32 = False
    folder = folder or find_folder(checkpoint)
    rules = read_rules(folder)
    free = torch.cuda.mem_get_info(target)[0] if target.type == "cuda" else None
    plan = plan_of(checkpoint, folder, precision, offload, dtype, free_bytes=free, speaks=speaks)
    if plan != EXACT and compat is not None:
        raise UnsupportedParameter(f"compat mode computes with the weights as they are, not in {plan}.")
    if plan.offload != "none" and speaks.rewrites:
        logger.info("no resident rewriter: the text encoder would be brought to the device for every word")
        speaks = replace(speaks, rewrites=False)
    with quiet(), torch.inference_mode():
        return assemble(checkpoint, rules, folder, target, dtype, compat=compat is not None, speaks=speaks, plan=plan)


EXACT = Plan("bf16", "none", 0)
"""Weights in the dtype that is computed in, all of them on the device."""


def plan_of(
    checkpoint: Checkpoint,
    folder: Path,
    precision: str,
    offload: str,
    dtype: torch.dtype,
    *,
    free_bytes: int | None,
    speaks: Speaks = SILENT,
) -> Plan:
    """How to load, as the options say and the device allows.

    free_bytes: of the device; None for a CPU, which has nothing to offload to. Raises UnsupportedParameter, and
    OutOfMemory with the numbers.
    """
    _check_word("precision", precision, memory_plan.PRECISIONS)
    _check_word("offload", offload, memory_plan.OFFLOADS)
    if checkpoint.full_precision and precision != "auto":
        raise UnsupportedParameter(
            f"'{checkpoint.name}' runs in float32 only: its numbers span more than '{precision}' tells apart.",
            field="precision",
        )
    if free_bytes is None and offload not in ("auto", "none"):
        raise UnsupportedParameter(
            f"--offload {offload} moves weights between a GPU and the host; on a CPU there is nothing to move.",
            field="offload",
        )
    if dtype == torch.float32 and precision == "bf16":
        raise UnsupportedParameter(
            f"'{checkpoint.name}' computes in float32 here, not in bf16; say auto, fp8 or int8.", field="precision"
        )
    if checkpoint.full_precision or free_bytes is None:
        return replace(EXACT, precision="bf16" if precision == "auto" else precision)
    with _reading("configuration", folder):
        candidates = memory_plan.plans(memory_plan.parts_of(folder), precision, offload, speaks=speaks.any)
    plan = memory_plan.check(checkpoint.name, candidates, free_bytes)
    logger.info("%s in %s, %s of the device free", checkpoint.name, plan, memory_plan.gigabytes(free_bytes))
    return replace(plan, bytes=0)


def _check_word(option: str, word: str, known: Sequence[str]) -> None:
    if word not in ("auto", *known):
        allowed = ", ".join(("auto", *known))
        raise UnsupportedParameter(f"There is no {option} '{word}'; there are: {allowed}.", field=option)


def dtype_on(device: torch.device, checkpoint: Checkpoint) -> torch.dtype:
    """bfloat16 on a GPU, float32 on a CPU and for a checkpoint that needs it everywhere."""
    return torch.bfloat16 if device.type == "cuda" and not checkpoint.full_precision else torch.float32


def choose_device(device: str) -> torch.device:
    """`auto` is a GPU when there is one. Raises UnsupportedParameter for a device that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UnsupportedParameter(f"There is no device '{device}'; say auto, cpu or cuda.", field="device") from error
    if chosen.type not in ("cpu", "cuda"):
        raise UnsupportedParameter(f"The device '{device}' is not supported; say auto, cpu or cuda.", field="device")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise UnsupportedParameter(f"This machine has no device '{device}'.", field="device")
    return chosen


def find_folder(checkpoint: Checkpoint) -> Path:
    """The weights on this machine: the packaged demo, a local folder, or a copy of the hub's, fetched when missing."""
    if checkpoint.source is None:
        return PACKAGED_DEMO
    local = Path(checkpoint.source).expanduser()
    if local.is_dir():
        return local
    if checkpoint.source.startswith((".", "/", "~")):
        raise UnknownModel(f"There is no folder '{checkpoint.source}'.", field="model")
    return weights_of(checkpoint.source)


def read_rules(folder: Path) -> Rules:
    """Which family a folder belongs to; raises UnknownModel or UnsupportedParameter when it is none of ours."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise UnknownModel(f"'{folder}' holds no model: there is no model_index.json.", field="model")
    with _reading("list of parts", folder):
        name = _json(index).get("_class_name")
    if name not in FAMILIES:
        names = ", ".join(FAMILIES)
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
) -> QwenImageEdit:
    """Read every part of a complete folder and put them together. disk: see `OffloadedBlocks`."""
    vae = _vae(folder, device, dtype)
    channels = vae.config.z_dim
    codec = StockVae(vae) if compat else FoldedVae(vae)
    weights = tensors_of(codec)
    network: Network
    if compat:
        network = PlainNetwork(_transformer(folder, device, dtype))
        weights += tensors_of(network.transformer)
    else:
        network = _fast_network(folder, device, dtype, plan, disk)
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
        schedule=NoiseSchedule.from_config(_json(folder / "scheduler" / "scheduler_config.json")),
        preview_map=load_preview(folder, device),
        latent_channels=channels,
        device=device,
        dtype=dtype,
        compat=compat,
        heads=heads,
        weights=DeviceWeights(weights, device),
    )


def _fast_network(folder: Path, device: torch.device, dtype: torch.dtype, plan: Plan, disk: Path | None) -> FastNetwork:
    transformer = _transformer(folder, HOST, dtype)
    if plan.precision in STORAGE:
        compress(transformer.transformer_blocks, plan.precision, keep=frozenset(modulation_layers(transformer)))
    modulation, offloaded = None, None
    away = plan.offload == "blocks"
    if device != HOST:
        with _reading("transformer", folder):
            place(transformer, device, without=transformer.transformer_blocks if away else None)
        weights = folder / "transformer"
        modulation = Modulation(transformer, folder=tables_folder(), fingerprint=fingerprint_of(weights))
    if away:
        offloaded = OffloadedBlocks(transformer.transformer_blocks, device, disk=_below(disk, "blocks"))
    return FastNetwork(transformer, modulation, offloaded)


def _below(disk: Path | None, name: str) -> Path | None:
    return None if disk is None else disk / name


def _vae(folder: Path, device: torch.device, dtype: torch.dtype) -> AutoencoderKLQwenImage:
    with _reading("vae", folder):
        return _whole(AutoencoderKLQwenImage, folder / "vae", device, torch_dtype=dtype)


def _transformer(folder: Path, device: torch.device, dtype: torch.dtype) -> QwenImageTransformer2DModel:
    with _reading("transformer", folder):
        config = _json(folder / "transformer" / "config.json")
        for option in UNSUPPORTED_OPTIONS:
            if config.get(option):
                message = f"'{folder}' uses '{option}', which this engine does not have."
                raise UnsupportedParameter(message, field="model")
        return _whole(QwenImageTransformer2DModel, folder / "transformer", device, torch_dtype=dtype)


def place(
    transformer: QwenImageTransformer2DModel, device: torch.device, *, without: torch.nn.Module | None = None
) -> None:
    """Move every weight to a device but those of the modulation, which a table replaces there, and of `without`."""
    stays = {*modulation_layers(transformer), *(() if without is None else without.modules())}
    for module in transformer.modules():
        if module in stays:
            continue
        for name, weight in module.named_parameters(recurse=False):
            setattr(module, name, torch.nn.Parameter(weight.detach().to(device), requires_grad=False))
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
    storage = "fp8" if plan.precision in memory_plan.FOUR_BITS else plan.precision
    with _reading("text encoder", folder):
        first = device if plan == EXACT else HOST
        model = _whole(
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


def _whole(family: Any, folder: Path, device: torch.device, *, unneeded: str = "", **dtype: torch.dtype) -> Any:
    """A model with every weight from the folder, straight onto the device; those that begin as `unneeded` may miss.

    Left alone, the libraries fill what is missing with random numbers and only log it.
    """
    model, told = family.from_pretrained(
        folder,
        device_map={"": str(device)},
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
        **dtype,
    )
    missing = sorted(name for name in told["missing_keys"] if not unneeded or not name.startswith(unneeded))
    if missing:
        raise OSError(f"weights are missing, such as {missing[0]}")
    for parameter in model.parameters():
        parameter.data = _aligned(parameter.data)
    return model.eval()


def _aligned(weight: torch.Tensor) -> torch.Tensor:
    """The same numbers where a fresh tensor would lie.

    A weight mapped from a file starts anywhere, and the last bits of a product on a CPU depend on where.
    """
    return weight if weight.data_ptr() % 64 == 0 else weight.clone()


def _json(file: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(file.read_text())
    return values


@contextmanager
def _reading(part: str, folder: Path) -> Iterator[None]:
    """Log the time it takes, and say in one sentence when a part cannot be read."""
    started = time.perf_counter()
    logger.info("loading the %s of %s", part, folder)
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"The {part} of '{folder}' does not fit this device.") from error
    except NotImplementedError as error:  # the stock classes leave what the file lacks on the meta device
        raise UnknownModel(f"The {part} of '{folder}' cannot be read: weights are missing", field="model") from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UnknownModel(f"The {part} of '{folder}' cannot be read: {reason}", field="model") from error
    logger.info("loaded the %s in %.1f s", part, time.perf_counter() - started)


@contextmanager
def quiet() -> Iterator[None]:
    """Progress is told by our log; the libraries' bars and hints about unused parts would only confuse."""
    libraries = (diffusers.utils.logging, transformers.utils.logging)
    levels = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)
            library.enable_progress_bar()
