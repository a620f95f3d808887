"""What a process of ours sets up before its work: log lines, the memory it keeps, the name it leases jobs under.

What is logged is each module's matter.
"""

from __future__ import annotations

import ctypes
import logging
import os
import secrets
import socket
import sys

import structlog

from retouch.secret import redact_line
from retouch.settings import LogLevel

KERNEL_CACHE_VARIABLE = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"

KERNELS_KEPT = 16
"""See benchmarks/LOG.md."""

_MEGABYTE = 1024 * 1024

# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


class _ErrorStream:
    """Writes to the error stream of the moment, one write a line, so that lines of threads do not mix."""

    def msg(self, line: str) -> None:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    debug = info = warning = error = critical = exception = msg


def set_up_logging(level: LogLevel) -> None:
    """For a whole process, once. Libraries that log in the standard way are heard from `warning` up, our own modules
    from `level`; all lines look alike."""
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # The default prints the local variables of every frame: keys and images in the log, and seconds for a deep stack.
    renderer = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(),
        pad_event_to=0,
        pad_level=False,
        exception_formatter=structlog.dev.plain_traceback,
    )
    standard = logging.StreamHandler()
    standard.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer, redact_line],
        )
    )
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[standard])
    logging.getLogger("retouch").setLevel(number)
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, renderer, redact_line],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: _ErrorStream(),
        cache_logger_on_first_use=True,
    )


def keep_freed_memory(megabytes: int) -> None:
    """Let this process keep up to so much freed memory. Call it before the first thread is started.

    An image is a few megabytes, which glibc by default maps from the kernel and returns at once; every page of the next
    one is then faulted in again, which costs as much as decoding it. Does nothing on other systems.
    """
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


def bound_kernel_cache() -> None:
    """Bound how many compiled kernels oneDNN keeps, unless the operator has. Call it before torch is imported.

    It compiles one for each shape of each layer and keeps a thousand, with their buffers: several gigabytes once
    edits of many sizes have run.
    """
    os.environ.setdefault(KERNEL_CACHE_VARIABLE, str(KERNELS_KEPT))


def worker_name() -> str:
    """A name to lease jobs under: unique over machines and restarts, and readable."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
