"""What is asked of a device: which, its name, attention kernel, memory for running edits, whether it is done, finite
numbers.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend

from retouch.catalog import Checkpoint
from retouch.errors import InternalError, UnsupportedParameter

logger = logging.getLogger(__name__)

HEAD_WIDTH = 128
"""Of the attention in the large checkpoints."""


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


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def kernel_of(device: torch.device, dtype: torch.dtype, head_width: int = HEAD_WIDTH) -> str:
    """`flash_attention`, `cudnn_attention`, `efficient_attention` or `math`: torch chooses, and it is named here.

    On the newest GPUs that is cuDNN's, which prepares itself anew for each length (tens of milliseconds on the host, by
    others' notes) and is the fastest at a megapixel; elsewhere it is flash attention.
    """
    heads = torch.empty(1, 1, 64, head_width, device=device, dtype=dtype)
    return SDPBackend(torch._fused_sdp_choice(heads, heads, heads)).name.lower()  # noqa: SLF001 - what torch itself asks


def budget_bytes(device: torch.device) -> int | None:
    """Half of what the device has left beside the weights; the step of one edit works in the other half.

    None on a CPU whose system does not tell.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return (free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)) // 2
    try:  # what Linux can give without swapping
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = next((line for line in lines if line.startswith("MemAvailable:")), None)
    return None if found is None else int(found.split()[1]) * 1024 // 2


def wait_for(device: torch.device) -> None:
    """Wait for the device, so that progress is true and a cancelled edit costs no queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def check_finite(values: torch.Tensor, checkpoint: Checkpoint) -> None:
    """Raise InternalError, on the device and before anything is encoded: as pixels such numbers are plain black."""
    if torch.isfinite(values).all():
        return
    logger.error("%s gives numbers that are not finite; its weights are damaged", checkpoint.name)
    raise InternalError(
        f"The checkpoint '{checkpoint.name}' gave numbers that are no image: its weights are damaged, or do not fit "
        "this device. Nothing is billed."
    )
