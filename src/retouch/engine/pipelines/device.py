"""What every pipeline asks of its device: its name, memory for running edits, whether it is done, finite numbers."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from retouch.catalog import Checkpoint
from retouch.errors import InternalError

logger = logging.getLogger(__name__)


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def budget_bytes(device: torch.device) -> int | None:
    """Half of what the device has left beside the weights; the step of one edit works in the other half.

    None on a CPU whose system does not tell.
    """
    if device.type != "cuda":
        available = _available_bytes()
        return None if available is None else available // 2
    free, _ = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return (free + reserved) // 2


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


def _available_bytes() -> int | None:
    """What the system can give without swapping; Linux tells."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = next((line for line in lines if line.startswith("MemAvailable:")), None)
    return None if found is None else int(found.split()[1]) * 1024
