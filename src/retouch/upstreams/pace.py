"""Keeps the polls of all jobs of one key together below a provider's rate."""

from __future__ import annotations

import threading
import time


class Pace:
    """Hands out moments, evenly spaced for each key. Thread-safe."""

    def __init__(self) -> None:
        self._next: dict[str, float] = {}
        self._lock = threading.Lock()

    def turn_s(self, key: str, per_second: float) -> float:
        """Take the key's next turn; returns how many seconds away it is."""
        now = time.monotonic()
        with self._lock:
            turn = max(now, self._next.get(key, 0.0))
            self._next[key] = turn + 1.0 / per_second
        return turn - now
