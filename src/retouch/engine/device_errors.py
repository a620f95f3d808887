"""Tells an error after which a device computes nothing more for this process from one that concerns one edit.

CUDA keeps such an error in the process' context: every later call fails with it, or with a cuBLAS or cuDNN error that
follows from it, and only a new process is rid of it. Errors are recognised by class and message, because the engine's
loop imports no torch. What becomes of the edits is the worker's matter.
"""

from __future__ import annotations

from collections.abc import Sequence

DEVICE_CLASSES = frozenset({"AcceleratorError", "RuntimeError"})
"""What torch raises for an error of the device, by version."""

DEVICE_API = ("CUDA error: ", "CUDA driver error: ", "HIP error: ")

STICKY = (
    "an illegal memory access was encountered",
    "an illegal instruction was encountered",
    "device-side assert triggered",
    "unspecified launch failure",
    "misaligned address",
    "invalid program counter",
    "operation not supported on global/shared address space",
    "hardware stack error",
    "the launch timed out and was terminated",
    "uncorrectable ECC error encountered",
    "uncorrectable NVLink error detected during the execution",
    "uncorrectable NVLink error was detected during the execution",
    "unknown error",
)
"""Texts of `cudaGetErrorString` for the errors that leave the process in an inconsistent state.

Source: NVIDIA, CUDA Runtime API, enum cudaError: "the process must be terminated and relaunched".
"""

FOLLOWING = tuple(
    f"{library}_STATUS_{status}"
    for library in ("CUBLAS", "CUDNN", "CUSOLVER", "CUFFT")
    for status in ("EXECUTION_FAILED", "INTERNAL_ERROR", "MAPPING_ERROR", "NOT_INITIALIZED")
)
"""What the libraries answer once the context is lost; a later status of cuDNN has a suffix."""


class DeviceLost(Exception):
    """The device is of no use to this process any more. Not in the tree of `errors.py`: no caller ever sees it.

    at_work: the edits that the failed call was for. present: all edits with something on the device, those included.
    """

    def __init__(self, at_work: Sequence[str], present: Sequence[str]) -> None:
        super().__init__("The device failed, and this process cannot use it any more.")
        self.at_work = frozenset(at_work)
        self.present = self.at_work | frozenset(present)


def is_device_loss(error: BaseException) -> bool:
    """Whether the error, or one that led to it, means that this process has lost its device."""
    cause: BaseException | None = error
    seen: set[int] = set()  # chains of causes may run in a circle
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, DeviceLost) or _is_sticky(cause):
            return True
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    return False


def _is_sticky(error: BaseException) -> bool:
    names = {cls.__name__ for cls in type(error).__mro__}
    if not names & DEVICE_CLASSES or "OutOfMemoryError" in names:
        return False
    text = str(error)
    if any(status in text for status in FOLLOWING) and "ALLOCATION" not in text:  # cuDNN's word for out of memory
        return True
    return any(api in text for api in DEVICE_API) and any(reason in text for reason in STICKY)
