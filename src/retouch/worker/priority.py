"""Who goes first inside a worker: the thread that drives the device, before those that fetch and decode.

A running edit's steps are many short calls, each of which needs a core and the interpreter's lock at once; a photo may
come a moment later. Knows no jobs.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Final

SWITCH_S: Final = 0.0005
"""How long a thread that computes in Python keeps the lock when another waits for it; Python's own is ten times that,
and the engine would wait so long at every one of its calls."""

BACKGROUND: Final = 10
"""How much nicer than the engine's thread: a tenth of its share of a core they both want."""


def prefer_short_turns() -> None:
    """Let threads of this process hand over the interpreter's lock sooner."""
    sys.setswitchinterval(SWITCH_S)


def work_in_the_background() -> None:
    """Lower the calling thread's priority, for good; does nothing where a thread has none of its own."""
    if sys.platform == "linux":  # there alone, the "process" of this call is a thread
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + BACKGROUND))
