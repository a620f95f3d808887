"""How checkpoints are loaded on a device: each by itself, and several of them together. Reads configurations only."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from retouch.catalog import Checkpoint
from retouch.engine.pipeline import SILENT, Speaks
from retouch.engine.pipelines import gguf_file, loading_21, memory_plan
from retouch.engine.pipelines.folders import choose_device, class_name_of, dtype_on, find_folder, reading
from retouch.engine.pipelines.memory_plan import Plan, Shared
from retouch.errors import RetouchError, UnsupportedParameter

logger = logging.getLogger(__name__)

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
    _check_options(checkpoint, precision, offload, dtype, on_cpu=free_bytes is None)
    word, file = _named(precision, folder)
    if class_name_of(folder) == loading_21.CLASS_NAME:
        _check_plain(checkpoint, word, offload)
    if free_bytes is None or checkpoint.full_precision:
        return replace(EXACT, precision="bf16" if word == "auto" else word, file=file)
    candidates = _candidates(checkpoint, folder, precision, offload, speaks=speaks)
    plan = memory_plan.check(checkpoint.name, candidates, free_bytes)
    logger.info("%s in %s, %s of the device free", checkpoint.name, plan, memory_plan.gigabytes(free_bytes))
    return replace(plan, bytes=0)


def share(
    checkpoints: Sequence[Checkpoint], *, device: str, precision: str, offload: str, speaks: Sequence[Speaks]
) -> Shared:
    """How several checkpoints are loaded onto one device. What cannot be read or loaded by itself has no plan.

    Raises UnsupportedParameter for a device that is not there.
    """
    target = choose_device(device)
    if target.type != "cuda":
        return Shared((None,) * len(checkpoints), swaps=False)
    candidates: list[tuple[Plan, ...]] = []
    for checkpoint, each in zip(checkpoints, speaks, strict=True):
        try:
            _check_options(checkpoint, precision, offload, dtype_on(target, checkpoint), on_cpu=False)
            candidates.append(_candidates(checkpoint, find_folder(checkpoint), precision, offload, speaks=each))
        except RetouchError:  # told when it is loaded
            candidates.append(())
    free = torch.cuda.mem_get_info(target)[0]
    shared = memory_plan.share(candidates, free)
    logger.info("%s of the device free for %d models: %s", memory_plan.gigabytes(free), len(checkpoints), shared)
    return shared


def _candidates(
    checkpoint: Checkpoint, folder: Path, precision: str, offload: str, *, speaks: Speaks
) -> tuple[Plan, ...]:
    if class_name_of(folder) == loading_21.CLASS_NAME:
        return (loading_21.plan_of_21(folder),)
    with reading("configuration", folder):
        parts = memory_plan.parts_of(folder)
    if checkpoint.full_precision:
        return (Plan("auto", "none", parts.device_bytes("bf16", itemsize=4) + memory_plan.ROOM_BYTES),)
    word, file = _named(precision, folder)
    given = None if file is None else gguf_file.blocks_bytes(file)
    found = memory_plan.plans(parts, word, offload, speaks=speaks.any, blocks_bytes=given)
    return tuple(replace(plan, file=file) for plan in found)


def _check_plain(checkpoint: Checkpoint, precision: str, offload: str) -> None:
    if precision not in ("auto", "bf16") or offload not in ("auto", "none"):
        raise UnsupportedParameter(
            f"'{checkpoint.name}' is loaded whole in bf16 only, not with --precision {precision} --offload {offload}.",
            field="precision",
        )


def _named(precision: str, folder: Path) -> tuple[str, Path | None]:
    """The word of `gguf:FILE`, and the file."""
    word, _, name = precision.partition(":")
    if word != "gguf":
        return word, None
    file = gguf_file.file_of(name, folder)
    gguf_file.blocks_bytes(file)  # whether it is one
    return word, file


def _check_options(checkpoint: Checkpoint, precision: str, offload: str, dtype: torch.dtype, *, on_cpu: bool) -> None:
    precision, colon, _ = precision.partition(":")
    _check_word("precision", precision if precision == "gguf" else precision + colon, memory_plan.PRECISIONS)
    _check_word("offload", offload, memory_plan.OFFLOADS)
    if checkpoint.full_precision and precision != "auto":
        raise UnsupportedParameter(
            f"'{checkpoint.name}' runs in float32 only: its numbers span more than '{precision}' tells apart.",
            field="precision",
        )
    if on_cpu and offload not in ("auto", "none"):
        raise UnsupportedParameter(
            f"--offload {offload} moves weights between a GPU and the host; on a CPU there is nothing to move.",
            field="offload",
        )
    if dtype == torch.float32 and precision == "bf16":
        raise UnsupportedParameter(
            f"'{checkpoint.name}' computes in float32 here, not in bf16; say auto, fp8 or int8.", field="precision"
        )
    if offload == "blocks" and precision in memory_plan.FOUR_BITS:
        raise UnsupportedParameter(
            f"--offload blocks moves plain weights, not {precision}; with that, say encoder, none or auto.",
            field="offload",
        )


def _check_word(option: str, word: str, known: Sequence[str]) -> None:
    if word not in ("auto", *known):
        allowed = ", ".join(("auto", *known))
        raise UnsupportedParameter(f"There is no {option} '{word}'; there are: {allowed}.", field=option)
