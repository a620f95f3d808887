"""Keeps a worker's word to the service while its device is busy: leases renewed, progress told, cancels heard.

One thread beside the engine's, so that neither a long step nor a long download lets a lease run out. It
tells what it learns through two functions it was given; it never touches the engine itself.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from retouch import images
from retouch.errors import LeaseLost, Unavailable, UnknownJob
from retouch.jobs.job import JobState
from retouch.jobs.wakeups import CANCEL_TOPIC, WakeUps
from retouch.service import Service
from retouch.storage.blobs import Blobs
from retouch.worker.held import HeldJob, HeldJobs

logger = structlog.get_logger(__name__)

PREVIEW_QUALITY = 80
PREVIEW_TTL_S = 600.0
SHORTEST_ROUND_S = 0.02
"""Between two rounds, however often the wake-up comes."""


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How often the service hears from a worker, in seconds.

    lease_s: life of a lease; it is renewed after a third of it. progress_s: least time between two
    progress writes of a job, which is also how long a lost cancel wake-up stays unnoticed.
    preview_s: least time between two previews of a job whose caller asked for none. beat_s: between two signs of life.
    """

    lease_s: float = 15.0
    progress_s: float = 0.25
    preview_s: float = 1.0
    beat_s: float = 3.0


@dataclass(slots=True)
class _Told:
    """What the service knows of one job, and since when (monotonic seconds)."""

    renewed_at: float
    progress_at: float
    preview_at: float
    step: int = 0


@dataclass(slots=True)
class Liaison:
    """The thread's work. `cancelled` and `lost` are called from it, once for each job at most.

    state: `loading` until the worker says otherwise; told with the sign of life.
    """

    worker: str
    queues: Sequence[str]
    device: str
    service: Service
    blobs: Blobs
    wakeups: WakeUps
    held: HeldJobs
    rhythm: Rhythm
    cancelled: Callable[[HeldJob], None]
    lost: Callable[[HeldJob], None]
    state: str = "loading"
    _seconds: dict[str, float] = field(default_factory=dict)
    _seconds_lock: threading.Lock = field(default_factory=threading.Lock)
    _told: dict[str, _Told] = field(default_factory=dict)  # by the key of the lease
    _beat_at: float = 0.0
    _told_state: str = ""

    def run(self, stop: threading.Event) -> None:
        """Work until `stop`; outages of the database or the store are waited out."""
        with contextlib.closing(self.wakeups.subscribe((CANCEL_TOPIC,))) as subscription:
            while not stop.is_set():
                began = time.monotonic()
                self.round(began)
                subscription.wait(self.rhythm.progress_s)
                stop.wait(max(0.0, began + SHORTEST_ROUND_S - time.monotonic()))

    def round(self, now: float) -> None:
        """Attend to every held job once and give a sign of life when it is due."""
        try:
            self._beat(now)
            jobs = self.held.all()
            self._forget_all_but(jobs)
            for job in jobs:
                self._attend(job, now)
        except Unavailable as error:
            logger.warning("the service is out of reach", reason=error.message)

    def spent(self, timings: Mapping[str, float]) -> None:
        """Count a finished job's seconds by stage; from any thread."""
        with self._seconds_lock:
            for stage, seconds in timings.items():
                self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    def _beat(self, now: float) -> None:
        """A sign of life when it is due or says something new."""
        state = self.state
        if state != self._told_state or now - self._beat_at >= self.rhythm.beat_s:
            self.service.beat(self.worker, self.queues, self.device, state, seconds=dict(self._seconds))
            self._beat_at, self._told_state = now, state

    def _attend(self, job: HeldJob, now: float) -> None:
        told = self._told.setdefault(job.key, _Told(now, now, now))
        try:
            cancel = self._tell(job, told, now)
        except (LeaseLost, UnknownJob):
            self.lost(job)
            return
        if cancel:
            self.cancelled(job)

    def _tell(self, job: HeldJob, told: _Told, now: float) -> bool:
        """Say what is new about the job; returns whether its owner wants it cancelled."""
        step = job.step
        renewal_due = now - told.renewed_at >= self.rhythm.lease_s / 3
        if not renewal_due and step > told.step and now - told.progress_at >= self.rhythm.progress_s:
            preview = self._store_preview(job, told, now)
            told.progress_at, told.step = now, step
            return self.service.progress(job.lease, step=step, steps=job.steps, preview_blob=preview)
        if renewal_due:
            told.renewed_at = now
            return self.service.renew(job.lease, self.rhythm.lease_s)
        current = self.service.get_any(job.id)
        if current.state is not JobState.RUNNING and not job.closed:
            raise LeaseLost(f"The job '{job.id}' was ended by somebody else.")
        return current.cancel_requested

    def _store_preview(self, job: HeldJob, told: _Told, now: float) -> str | None:
        """The key of a new preview when the engine left one; asks for the next in time."""
        pixels, job.preview = job.preview, None
        if job.lease.job.delivery.previews or now - told.preview_at >= self.rhythm.preview_s:
            job.preview_wanted = True
        if pixels is None:
            return None
        told.preview_at = now
        data = images.encode(pixels, "jpeg", PREVIEW_QUALITY)
        try:
            return self.blobs.put(data, "image/jpeg", folder="previews", ttl_s=PREVIEW_TTL_S)
        except Unavailable as error:
            logger.warning("a preview is left out", job=job.id, reason=error.message)
            return None

    def _forget_all_but(self, jobs: Sequence[HeldJob]) -> None:
        keys = {job.key for job in jobs}
        self._told = {key: told for key, told in self._told.items() if key in keys}
