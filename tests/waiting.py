"""Waiting for facts that give no signal: the one place where tests let time pass.

It knows nothing of Retouch; what is waited for is the caller's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

WITHIN_S = 40.0
PAUSE_S = 0.01

T = TypeVar("T")


def until(
    fact: Callable[[], T | None], *, within_s: float = WITHIN_S, otherwise: Callable[[], str] = lambda: "not true yet"
) -> T:
    """What `fact` returns, as soon as that is true; fails with `otherwise` after `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while not (found := fact()):
        assert time.monotonic() < deadline, f"{otherwise()} after {within_s} s"
        time.sleep(PAUSE_S)
    return found
