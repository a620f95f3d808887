"""Which of a job's log lines are new: providers tell all of them with every poll. A very old job's may come twice."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

_JOBS: Final = 4096


class LogLines:
    """Counts what has been told of each job; thread-safe."""

    def __init__(self) -> None:
        self._told: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def fresh(self, job: str, lines: Sequence[str]) -> tuple[str, ...]:
        """The lines that were not there the last time."""
        with self._lock:
            told = self._told.pop(job, 0)
            self._told[job] = max(told, len(lines))
            if len(self._told) > _JOBS:
                self._told.popitem(last=False)
        return tuple(lines[told:])
