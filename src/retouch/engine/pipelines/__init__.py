"""Loaded models. The only place that reaches torch, and only when a model is really loaded.

`load_pipeline` picks the module by name, so that nothing that merely imports this package imports torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from retouch.catalog import Checkpoint
from retouch.edit import LoraFile
from retouch.engine.pipeline import SILENT, Pipeline, Speaks
from retouch.engine.pipelines.null import NullPipeline
from retouch.engine.prompt_safety import PromptClassifier
from retouch.engine.safety import ImageClassifier
from retouch.errors import UnsupportedParameter

NULL = "null"


def load_pipeline(
    checkpoint: Checkpoint,
    *,
    device: str = "auto",
    compat: str | None = None,
    folder: Path | None = None,
    speaks: Speaks = SILENT,
    precision: str = "auto",
    offload: str = "auto",
    fast_lora: LoraFile | None = None,
    compiled: bool = False,
) -> Pipeline:
    """Load a checkpoint's weights onto a device; minutes for a large one.

    device: `auto` (a GPU when there is one), `cpu`, `cuda` or `cuda:1`. compat: `diffusers` repeats the
    stock pipelines to the bit, their faults included. folder: weights instead of `checkpoint.source`.
    speaks: what its language model is for beside encoding. precision: `bf16`, `fp8`, `int8`, `nf4`, or `auto`, the most
    exact that fits. offload: `none`, `encoder` or `blocks`, see `memory_plan.OFFLOADS`, or `auto`, what fits.
    fast_lora: what `high` runs, in the steps the checkpoint's row says. compiled: the network's blocks, on a GPU.
    Raises UnsupportedParameter for a checkpoint or option this engine does not have, UnknownModel when
    the weights are not there, OutOfMemory when they do not fit, InvalidLora.
    """
    if compat not in (None, "diffusers"):
        raise UnsupportedParameter(f"There is no compat mode '{compat}'; there is: diffusers.")
    if checkpoint.name == NULL:
        if speaks.any:
            raise UnsupportedParameter(f"'{NULL}' has no language model.", field="model")
        return NullPipeline()
    with _module("lean_import", checkpoint.name).without_compiler():
        loading = _module("loading", checkpoint.name)
        pipeline: Pipeline = loading.load(
            checkpoint,
            device=device,
            compat=compat,
            folder=folder,
            speaks=speaks,
            precision=precision,
            offload=offload,
            fast_lora=fast_lora,
            compiled=compiled,
        )
    return pipeline


def share_device(
    checkpoints: Sequence[Checkpoint], *, device: str, precision: str, offload: str, speaks: Sequence[Speaks]
) -> tuple[bool, tuple[tuple[str, str], ...]]:
    """How several checkpoints use one device: whether their weights take turns on it, and each one's precision and
    offload, for `load_pipeline`. Reads configurations only, and fetches what is not on this machine.
    """
    names = [checkpoint.name for checkpoint in checkpoints if checkpoint.name != NULL]
    if not names:
        return False, ((precision, offload),) * len(checkpoints)
    with _module("lean_import", names[0]).without_compiler():
        shared = _module("memory_plan", names[0]).share_device(
            checkpoints, device=device, precision=precision, offload=offload, speaks=speaks
        )
    ways = ((precision, offload) if plan is None else (plan.precision, plan.offload) for plan in shared.plans)
    return shared.swaps, tuple(ways)


def has_gpu(device: str) -> bool:
    """Whether a model on `device` runs on a GPU; raises UnsupportedParameter for a device that is not there."""
    chosen: str = _module("device", f"--device {device}").choose_device(device).type
    return chosen == "cuda"


def load_image_classifier(name: str, labels: Sequence[str] = ()) -> ImageClassifier:
    """An image classifier of transformers by hub id or folder, see `safety_models.py`. Raises InvalidSetting."""
    classifier: ImageClassifier = _module("safety_models", name).load_image_classifier(name, labels)
    return classifier


def load_guard(name: str, device: str = "auto") -> PromptClassifier:
    """A guard model by hub id or folder, see `safety_models.py`. Raises InvalidSetting."""
    guard: PromptClassifier = _module("safety_models", name).load_guard(name, device)
    return guard


def _module(name: str, purpose: str) -> ModuleType:
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("torch", "diffusers", "transformers"):
            raise
        raise UnsupportedParameter(
            f"'{purpose}' needs the packages of the extra 'local': pip install 'retouch[local]'.", field="model"
        ) from error
