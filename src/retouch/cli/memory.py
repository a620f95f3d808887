"""Asks the C library to keep the memory of images instead of handing it back after each one.

An image is a few megabytes, which glibc by default maps from the kernel and returns at once; every page of
the next one is then faulted in again, which costs as much as decoding it. Does nothing on other systems.
"""

from __future__ import annotations

import ctypes
import os

_MEGABYTE = 1024 * 1024

# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


def keep_freed_memory(megabytes: int) -> None:
    """Let this process keep up to so much freed memory. Call it before the first thread is started."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for parameter, value in (
        (_M_MMAP_THRESHOLD, 32 * _MEGABYTE),
        (_M_TOP_PAD, 16 * _MEGABYTE),
        (_M_TRIM_THRESHOLD, megabytes * _MEGABYTE),
        (_M_ARENA_MAX, 1),
    ):
        mallopt(parameter, value)


KERNEL_CACHE_VARIABLE = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"

KERNELS_KEPT = 16
"""See benchmarks/LOG.md."""


def bound_kernel_cache() -> None:
    """Bound how many compiled kernels oneDNN keeps, unless the operator has. Call it before torch is imported.

    It compiles one for each shape of each layer and keeps a thousand, with their buffers: several gigabytes once
    edits of many sizes have run.
    """
    os.environ.setdefault(KERNEL_CACHE_VARIABLE, str(KERNELS_KEPT))
