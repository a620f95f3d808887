"""What the threads of the gateway wait for: a word about their job, room at an upstream, their turn to poll.

Kept in this process only. Whether a job may go on at all is for its lease to say.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Cancelled(Exception):
    """The owner wants it stopped."""


class Stopping(Exception):
    """This server ends; another one goes on with the job."""


class Lost(Exception):
    """The job is another server's by now, or has ended elsewhere."""


class Dropped(Exception):
    """Another attempt was faster."""


class Signals:
    """Of one job. Every wait ends early when something is set or `wake` is called."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._raised: type[Exception] | None = None
        self._news = 0

    def set(self, signal: type[Exception]) -> None:
        """From now on `check` raises it; the first one counts, but a lost lease counts more."""
        with self._changed:
            if self._raised is None or signal is Lost:
                self._raised = signal
            self._changed.notify_all()

    @property
    def raised(self) -> type[Exception] | None:
        return self._raised

    def wake(self) -> None:
        """There is news of an attempt."""
        with self._changed:
            self._news += 1
            self._changed.notify_all()

    def check(self) -> None:
        if self._raised is not None:
            raise self._raised

    def wait(self, seconds: float, *, until_signal: bool = False) -> None:
        """Let time pass. until_signal: news do not end it."""
        ends_at = time.monotonic() + seconds
        with self._changed:
            seen = self._news
            while self._raised is None and (until_signal or self._news == seen):
                left = ends_at - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    return


class Slots:
    """How many edits of this process are at each upstream at a time. Thread-safe."""

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


class Pace:
    """Keeps the polls of all jobs of one key together below a provider's rate: moments, evenly spaced. Thread-safe."""

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
