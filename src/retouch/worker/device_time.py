"""How a device's time was spent: at work, or idle although an edit was on its way to it.

The second is what staging beside the steps is there to avoid; time without any edit is neither. Knows no engine.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

BUSY, WAITED = "device busy", "device waited"
"""Names of the sums beside those of the stages, see `metrics.py`."""


class DeviceTime:
    """Sums in seconds since the start. One thread adds to them, any thread may read."""

    def __init__(self) -> None:
        self.busy_s = 0.0
        self.waited_s = 0.0

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.busy_s += time.monotonic() - began

    def idle_since(self, began: float, expected_since: float | None) -> None:
        """The device had nothing to do from `began` until now; an edit was on its way from `expected_since` on."""
        if expected_since is not None:
            self.waited_s += time.monotonic() - max(began, expected_since)

    def seconds(self) -> Mapping[str, float]:
        return {BUSY: self.busy_s, WAITED: self.waited_s}
