"""The jobs one worker holds at this moment, shared by its threads.

A `HeldJob` is ended by exactly one of those who may end it (finished, failed, cancelled, lost, given back):
whoever calls `close` first. Nothing here speaks to the service or the engine.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from retouch.engine.engine import Progress
from retouch.images import Pixels
from retouch.jobs.job import Lease
from retouch.worker.staging import Staged


@dataclass(slots=True)
class HeldJob:
    """One leased job on its way through this worker.

    Written by one thread at a time as it moves from stage to stage; `step` and `preview` are written by
    the engine's thread and read by the liaison's.
    """

    lease: Lease
    staged: Staged | None = None
    stage_in_s: float = 0.0
    steps_done: dict[str, int] = field(default_factory=dict)  # by edit id
    images: dict[str, Pixels] = field(default_factory=dict)  # by edit id, finished
    timings: dict[str, Mapping[str, float]] = field(default_factory=dict)  # by edit id, seconds by stage
    preview: Pixels | None = None
    preview_wanted: bool = False
    _closed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def id(self) -> str:
        return self.lease.job.id

    @property
    def key(self) -> str:
        """Names the lease, not the job: a worker may lease again what it has lost and not yet noticed."""
        return f"{self.id}/{self.lease.attempt}"

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> bool:
        """True for the first caller only: he ends the job, everybody else drops what he has."""
        with self._lock:
            first = not self._closed
            self._closed = True
        return first

    def reopen(self) -> None:
        """Take `close` back because the end could not be told; for the one who closed it."""
        self._closed = False

    @property
    def step(self) -> int:
        """Denoise steps done, all images together."""
        return sum(self.steps_done.values())

    @property
    def steps(self) -> int:
        return 0 if self.staged is None else self.staged.steps

    @property
    def edit_ids(self) -> tuple[str, ...]:
        """The engine's ids of this job's images, in order."""
        count = 0 if self.staged is None else len(self.staged.specs)
        return tuple(f"{self.key}/{index}" for index in range(count))

    @property
    def complete(self) -> bool:
        return len(self.images) == len(self.edit_ids)

    def moved(self, progress: Progress) -> None:
        self.steps_done[progress.edit_id] = progress.step


class HeldJobs:
    """The worker's jobs by the key of their lease; every method is safe from any thread."""

    def __init__(self) -> None:
        self._jobs: dict[str, HeldJob] = {}
        self._lock = threading.Lock()

    def add(self, job: HeldJob) -> None:
        with self._lock:
            self._jobs[job.key] = job

    def remove(self, job: HeldJob) -> bool:
        """Forget the job; True when it was here."""
        with self._lock:
            return self._jobs.pop(job.key, None) is not None

    def of_edit(self, edit_id: str) -> HeldJob | None:
        """The job an edit of the engine belongs to; None when it has left."""
        with self._lock:
            return self._jobs.get(edit_id.rpartition("/")[0])

    def all(self) -> tuple[HeldJob, ...]:
        with self._lock:
            return tuple(self._jobs.values())
