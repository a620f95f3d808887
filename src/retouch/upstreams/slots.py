"""How many edits of this process are at each upstream at a time."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Slots:
    """Counts by upstream. Thread-safe."""

    def __init__(self) -> None:
        self._used: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def take(self, upstream: str, most: int | None) -> Iterator[bool]:
        """Whether there was room; the place is held for as long as the block runs."""
        with self._lock:
            taken = most is None or self._used[upstream] < most
            if taken:
                self._used[upstream] += 1
        try:
            yield taken
        finally:
            if taken:
                with self._lock:
                    self._used[upstream] -= 1
