"""Where a worker is between its start and its end; all of its threads wait on this one value.

What is done in each phase is decided in `worker.py`.
"""

from __future__ import annotations

import threading
from enum import IntEnum


class Phase(IntEnum):
    """The phases in their order; a worker never goes back to an earlier one."""

    LOADING = 0
    RUNNING = 1
    STOPPING = 2  # nothing new begins; what is not done is given back
    STOPPED = 3  # nothing is held any more, so no lease has to be kept


class Lifecycle:
    """The phase of one worker; every method is safe from any thread."""

    def __init__(self) -> None:
        self._phase = Phase.LOADING
        self._changed = threading.Condition()

    def advance(self, phase: Phase) -> None:
        """Enter `phase`, unless a later one was entered already: a stop during loading stays a stop."""
        with self._changed:
            self._phase = max(self._phase, phase)
            self._changed.notify_all()

    def reached(self, phase: Phase) -> bool:
        return self._phase >= phase

    def wait(self, phase: Phase, timeout_s: float | None = None) -> bool:
        """Wait until `phase` is reached; False when it was not within `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._phase >= phase, timeout_s)
