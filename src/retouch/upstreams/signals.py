"""What the threads of one job are told while they wait: cancelled, the server stops, the lease is lost, news."""

from __future__ import annotations

import threading
import time


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
