"""The jobs one worker has leased at this moment, shared by its threads.

A `LeasedJob` is ended by exactly one of those who may end it (finished, failed, cancelled, lost, given back):
the first caller of `close`. Nothing here speaks to the service or the engine.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from retouch.catalog import Checkpoint
from retouch.edit import EditOutput, Notice, OutputImage, Usage
from retouch.engine.cost import Work
from retouch.images import Pixels
from retouch.jobs import store
from retouch.jobs.fair_queue import Place
from retouch.jobs.job import Lease
from retouch.worker.staging import Staged


@dataclass(slots=True)
class LeasedJob:
    """One leased job on its way through this worker.

    Written by one thread at a time as it moves from stage to stage; `steps_done` and `previews` are written by
    the engine's thread and read by the heartbeat's. previews_wanted: of which images the next one is to be taken.
    """

    lease: Lease
    seconds: float  # of the device, predicted, for all images
    leased_at: float = field(default_factory=time.monotonic)
    work: Work | None = None  # of each image, known once it is staged
    staged: Staged | None = None
    stage_in_s: float = 0.0
    steps_done: dict[str, int] = field(default_factory=dict)  # by edit id
    images: dict[str, Pixels] = field(default_factory=dict)  # by edit id, finished
    timings: dict[str, Mapping[str, float]] = field(default_factory=dict)  # by edit id, seconds by stage
    notices: list[Notice] = field(default_factory=list)  # of the model, for all images together
    previews: dict[int, tuple[Pixels, int]] = field(default_factory=dict)  # by image: the newest, and its step
    previews_wanted: set[int] = field(default_factory=set)  # images
    _closed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def place(self) -> Place:
        return store.place_of(self.lease.job)

    @property
    def made(self) -> bool:
        """Whether the device is done with it."""
        return self.staged is not None and len(self.images) == len(self.staged.specs)

    @property
    def seconds_left(self) -> float:
        """Of the device, predicted; what is decoded and stored is done."""
        if self.made:
            return 0.0
        return self.seconds * (1 - self.step / self.steps) if self.steps else self.seconds

    @property
    def id(self) -> str:
        return self.lease.job.id

    @property
    def key(self) -> str:
        """Names the lease, not the job: a worker may lease again what it has lost and not yet noticed."""
        return f"{self.id}/{self.lease.claim}"

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> bool:
        """True for the first caller only: it ends the job, every other one drops what it has."""
        with self._lock:
            first = not self._closed
            self._closed = True
        return first

    def reopen(self) -> None:
        """Take `close` back because the end could not be recorded; for the thread that closed it."""
        self._closed = False

    @property
    def step(self) -> int:
        """Denoise steps done, all images together."""
        return sum(self.steps_done.values())

    @property
    def steps(self) -> int:
        return 0 if self.staged is None else self.staged.steps

    def output(
        self, images: Sequence[OutputImage], checkpoint: Checkpoint, notices: Sequence[Notice], stage_out_s: float
    ) -> EditOutput:
        """The answer's facts. images: stored already, in order. notices: come after those of staging and model."""
        staged = self.staged
        assert staged is not None, "a finished job was staged"
        device: dict[str, float] = {}  # seconds by stage of all images together
        for edit_id in self.edit_ids:
            for stage, seconds in self.timings[edit_id].items():
                device[stage] = device.get(stage, 0.0) + seconds
        stages = {"stage_in": self.stage_in_s, **device, "stage_out": stage_out_s, "inference": sum(device.values())}
        return EditOutput(
            images=tuple(images),
            prompt=staged.specs[0].prompt,
            timings=stages,
            canvas=staged.sizes.canvas,
            notices=(*staged.notices, *self.notices, *notices),
            applied={"acceleration": staged.specs[0].acceleration.value, "checkpoint": checkpoint.name},
        )

    def usage(self, output: EditOutput) -> Usage:
        """What the ledger counts, without the price: what the engine worked for this job, not how long it waited.

        An image that was refused and delivered in black costs nothing.
        """
        delivered = [image for image in output.images if not image.unsafe]
        return Usage(
            images=len(delivered),
            pixels=sum(image.width * image.height for image in delivered),
            steps=self.steps,
            device_ms=round(output.timings["inference"] * 1000),
        )

    @property
    def edit_ids(self) -> tuple[str, ...]:
        """The engine's ids of this job's images, in order."""
        count = 0 if self.staged is None else len(self.staged.specs)
        return tuple(f"{self.key}/{index}" for index in range(count))


class LeasedJobs:
    """The worker's jobs by the key of their lease; safe from any thread."""

    def __init__(self) -> None:
        self._jobs: dict[str, LeasedJob] = {}
        self._lock = threading.Lock()

    def add(self, job: LeasedJob) -> None:
        with self._lock:
            self._jobs[job.key] = job

    def remove(self, job: LeasedJob) -> bool:
        """Forget the job; False when it had left already."""
        with self._lock:
            return self._jobs.pop(job.key, None) is not None

    def of_edit(self, edit_id: str) -> LeasedJob | None:
        """The job an edit of the engine belongs to; None when it has left."""
        with self._lock:
            return self._jobs.get(edit_id.rpartition("/")[0])

    def all(self) -> tuple[LeasedJob, ...]:
        with self._lock:
            return tuple(self._jobs.values())

    def on_their_way_since(self) -> float | None:
        """When the oldest job was leased that the device is to do something for; None when there is none. Monotonic."""
        return min((job.leased_at for job in self.all() if not job.closed and not job.made), default=None)

    def seconds_before(self, place: Place, *, slow_staging_s: float) -> float:
        """How long the device is busy with what stands before a place.

        A job whose images are still on their way after `slow_staging_s` does not count: the device may have to wait.
        """
        late = time.monotonic() - slow_staging_s
        ready = (job for job in self.all() if job.place < place and (job.staged is not None or job.leased_at > late))
        return sum(job.seconds_left for job in ready)
