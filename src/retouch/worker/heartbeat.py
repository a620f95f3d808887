"""Keeps a worker's leases while its device is busy: renews them, reports progress, hears of cancels.

One thread beside the engine's, so that neither a long step nor a long download lets a lease run out. It
decides nothing about a job; it hands what it hears to the `JobRunner`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from retouch import images
from retouch.engine.cost import Cost
from retouch.errors import LeaseLost, Unavailable, UnknownJob
from retouch.images import Pixels
from retouch.jobs.job import JobState, Preview
from retouch.jobs.wakeups import CANCEL_TOPIC, WakeUps
from retouch.service import Service
from retouch.storage.blobs import Blobs
from retouch.worker.job_runner import JobRunner, LeasedJob, Lifecycle, Phase
from retouch.worker.settings import HeartbeatSettings

logger = structlog.get_logger(__name__)

PREVIEW_QUALITY = 80
PREVIEW_TTL_S = 600.0
SHORTEST_ROUND_S = 0.02
"""Between two rounds, however often the wake-up comes."""


@dataclass(slots=True)
class _Reported:
    """What the service knows of one job, and since when (monotonic seconds)."""

    renewed_at: float
    progress_at: float
    preview_at: float
    step: int = 0


@dataclass(slots=True)
class Heartbeat:
    """The thread's work."""

    worker: str
    queues: Sequence[str]
    device: str
    service: Service
    blobs: Blobs
    wakeups: WakeUps
    runner: JobRunner
    settings: HeartbeatSettings
    device_name: str = ""  # set once the model is loaded; names the row of measured costs
    facts: Mapping[str, str] = field(default_factory=dict)  # likewise, see `LiveWorker`
    _progress: str | None = None
    _failure: str | None = None
    _kept_cost: Cost | None = None
    _keep_cost_at: float = 0.0
    _reported: dict[str, _Reported] = field(default_factory=dict)  # by the key of the lease
    _beat_at: float = 0.0
    _beat_state: str = ""

    def run(self, lifecycle: Lifecycle) -> None:
        """Work until the worker has stopped; outages of the database or the store are waited out."""
        with contextlib.closing(self.wakeups.subscribe((CANCEL_TOPIC,))) as subscription:
            while not lifecycle.reached(Phase.STOPPED):
                began = time.monotonic()
                try:
                    self._round(began)
                except Unavailable as error:
                    logger.warning("the service is out of reach", reason=error.message)
                subscription.wait(self.settings.progress_s)
                lifecycle.wait(Phase.STOPPED, began + SHORTEST_ROUND_S - time.monotonic())

    def report_problem(self, problem: str) -> None:
        """Let `/ready` say why this worker, which is about to end, cannot get ready."""
        try:
            self.service.beat(self.worker, self.queues, self.device, "loading", problem=problem)
        except Unavailable as error:
            logger.warning("the service is out of reach", reason=error.message)

    def fail(self, problem: str) -> None:
        """Let `/ready` say for as long as this process lives that the model cannot run, and why."""
        self._failure = problem

    def tell(self, progress: str) -> None:
        """Let `/ready` say in a sentence how far loading is."""
        self._progress = progress
        self._beat_at = 0.0

    def _round(self, now: float) -> None:
        """Attend to every leased job once; share what the device was measured at, and beat, when due or changed."""
        if self.device_name and now >= self._keep_cost_at and (cost := self.runner.costs.cost) != self._kept_cost:
            for queue in self.queues:
                self.service.keep_cost(queue, self.device_name, cost)
            self._kept_cost, self._keep_cost_at = cost, now + self.settings.keep_cost_s
        state = "ready" if self.runner.engine is not None else "failed" if self._failure else "loading"
        if state != self._beat_state or now - self._beat_at >= self.settings.beat_s:
            tally = self.runner.policy.moderation.tally
            self.service.beat(
                self.worker,
                self.queues,
                self.device,
                state,
                seconds={**self.runner.seconds, "safety": tally.seconds},
                checks=tally.checks,
                problem=self._failure or (self._progress if state == "loading" else None),
                facts=self.facts,
            )
            self._beat_at, self._beat_state = now, state
        jobs = self.runner.jobs
        self._reported = {job.key: self._reported.get(job.key) or _Reported(now, now, now) for job in jobs}
        for job in jobs:
            try:
                cancel_requested = self._report(job, self._reported[job.key], now)
            except (LeaseLost, UnknownJob):
                self.runner.drop_lost(job)
                continue
            if cancel_requested:
                self.runner.cancel(job)

    def _report(self, job: LeasedJob, reported: _Reported, now: float) -> bool:
        """Write what is new about the job; returns whether its owner wants it cancelled."""
        step = job.step
        renewal_due = now - reported.renewed_at >= self.settings.lease_s / 3
        # A preview is ready only after its step was counted; the edit may stand still by then, so it is news by itself.
        news = step > reported.step or job.previews
        if not renewal_due and news and now - reported.progress_at >= self.settings.progress_s:
            previews = self._store_previews(job, reported, now)
            repeated, reported.progress_at, reported.step = step == reported.step, now, step
            return self.service.progress(
                job.lease,
                step=step,
                steps=job.steps,
                repeated=repeated,
                previews=previews,
                seconds_left=self.runner.seconds_left(job),
            )
        if renewal_due:
            reported.renewed_at = now
            return self.service.renew(job.lease, self.settings.lease_s)
        current = self.service.get_any(job.id)
        if current.state is not JobState.RUNNING and not job.closed:
            raise LeaseLost(f"The job '{job.id}' was ended elsewhere.")
        return current.cancel_requested

    def _store_previews(self, job: LeasedJob, reported: _Reported, now: float) -> list[Preview]:
        """Store the previews the engine left, one for each image at most, and order the next ones in time."""
        taken: list[tuple[int, tuple[Pixels, int]]] = []
        while job.previews:  # one by one, because the engine's thread may add to them meanwhile
            taken.append(job.previews.popitem())
        if job.lease.job.delivery.previews or now - reported.preview_at >= self.settings.preview_s:
            job.previews_wanted.update(range(job.lease.job.request.num_images))
        stored: list[Preview] = []
        for image, (pixels, step) in sorted(taken, key=lambda preview: preview[0]):
            reported.preview_at = now
            data = images.encode(pixels, "jpeg", PREVIEW_QUALITY)
            try:
                key = self.blobs.put(data, "image/jpeg", folder="previews", ttl_s=PREVIEW_TTL_S)
            except Unavailable as error:
                logger.warning("a preview is left out", job=job.id, reason=error.message)
                continue
            stored.append(Preview(key, image, step))
        return stored
