"""One leased job from its lease to its end: stage in, the engine's edits, stage out, and each other way it can end.

A job has exactly one thread at a time and is ended once, by the first of those who may end it (`LeasedJob.close`):
finished, failed, cancelled, lost or given back. When jobs are leased and when the engine steps is `worker.py`'s matter;
states and money are the service's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from typing import TypeVar

import numpy as np
import structlog

from retouch.catalog import Checkpoint
from retouch.edit import EditOutput, Expansion, Notice, OutputImage, Usage
from retouch.engine.cost import CostLearner, Work, work_of, work_of_spec
from retouch.engine.device_errors import DeviceLost, is_device_loss
from retouch.engine.engine import Engine, StepReport
from retouch.errors import (
    ContentRefused,
    Failure,
    InternalError,
    LeaseLost,
    RetouchError,
    SafetyUnavailable,
    Unavailable,
    UnknownJob,
)
from retouch.images import Pixels
from retouch.jobs import store
from retouch.jobs.fair_queue import Place
from retouch.jobs.job import Lease
from retouch.service import Service
from retouch.storage.blobs import Blobs
from retouch.storage.caller_bucket import CallerBuckets
from retouch.worker.policy import JobPolicy
from retouch.worker.priority import work_in_the_background
from retouch.worker.settings import WorkerSettings
from retouch.worker.staging import FindLora, ReadInput, Staged, finish_image, stage_in

logger = structlog.get_logger(__name__)

T = TypeVar("T")

EXPANSION = "enable_prompt_expansion"

PREVIEWS_CHECKED = 4
"""Previews that may wait for the checker; with more, the next one is taken later."""

BUSY, WAITED = "device busy", "device waited"
"""Names of the device's own sums beside those of the stages, see `metrics.py`: at work, or idle although an edit was on
its way, which staging beside the steps is there to avoid. Time without any edit is neither."""


class Phase(IntEnum):
    """Where a worker is between its start and its end, in order; it never goes back to an earlier one."""

    LOADING = 0
    RUNNING = 1
    STOPPING = 2  # nothing new begins; what is not done is given back
    STOPPED = 3  # nothing is held any more, so no lease has to be kept


class Lifecycle:
    """The phase of one worker, on which all of its threads wait; every method is safe from any thread."""

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
    closed: bool = False  # set by `close`, taken back only by the thread that closed it
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

    def close(self) -> bool:
        """True for the first caller only: it ends the job, every other one drops what it has."""
        with self._lock:
            first = not self.closed
            self.closed = True
        return first

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


class JobRunner:
    """Runs the jobs that a worker has leased; safe from any thread.

    `engine`, `costs` and `policy` are set when the model is loaded, before a job is leased. seconds: device and staging
    time by stage since the start, of all finished jobs; beside them BUSY and WAITED, written by the thread that drives
    the engine.
    """

    def __init__(
        self,
        *,
        service: Service,
        blobs: Blobs,
        read: ReadInput,
        find_lora: FindLora,
        checkpoint: Checkpoint,
        settings: WorkerSettings,
        lifecycle: Lifecycle,
        caller_buckets: CallerBuckets,
    ) -> None:
        self.engine: Engine | None = None
        self.costs = CostLearner()
        self.policy = JobPolicy()
        self.seconds = {BUSY: 0.0, WAITED: 0.0}
        self._jobs: dict[str, LeasedJob] = {}  # by the key of the lease
        self._lock = threading.Lock()
        self._service = service
        self._blobs = blobs
        self._read = read
        self._find_lora = find_lora
        self._checkpoint = checkpoint
        self._settings = settings
        self._lifecycle = lifecycle
        self._caller_buckets = caller_buckets
        self._staging_in = ThreadPoolExecutor(settings.staging, "stage-in", initializer=work_in_the_background)
        self._staging_out = ThreadPoolExecutor(2, "stage-out")
        self._checking_previews = ThreadPoolExecutor(1, "preview")
        self._preview_slots = threading.Semaphore(PREVIEWS_CHECKED)
        self._storing: set[Future[None]] = set()

    def begin(self, lease: Lease) -> None:
        """Start on a job that was just leased."""
        request = lease.job.request
        seconds = request.num_images * self.costs.cost.seconds(work_of(request, self._checkpoint))
        job = LeasedJob(lease, seconds)
        if lease.job.delivery.previews:
            job.previews_wanted.update(range(request.num_images))
        with self._lock:
            self._jobs[job.key] = job
        logger.info("job leased", job=job.id, attempt=lease.job.attempt, model=request.model)
        if not self._lifecycle.reached(Phase.STOPPING):
            self._staging_in.submit(self._run_stage, job, self._stage_in)
        elif job.close():  # the stop came while it was being leased
            self._give_back(job)

    # -- stages ---------------------------------------------------------------------------------------

    def _run_stage(self, job: LeasedJob, stage: Callable[[LeasedJob], None]) -> None:
        """Run one stage; whatever goes wrong in it ends this job and no other."""
        if job.closed:
            return
        try:
            stage(job)
        except LeaseLost:
            self.drop_lost(job)
        except Unavailable as error:
            if job.close():
                logger.warning("storage or database is away", job=job.id, reason=error.message)
                # A job given back is next in its queue: without a pause this worker would lease it at once.
                self._lifecycle.wait(Phase.STOPPING, self._settings.outage_pause_s)
                self._give_back(job)
        except Exception as error:
            if is_device_loss(error):  # of a checker, or of the language model
                self._lose(job, at_work=True)
                assert self.engine is not None, "jobs are leased after the engine is loaded"
                self.engine.lose_device()
            elif isinstance(error, RetouchError):
                self._fail(job, error.failure)
            else:
                logger.exception("job failed by a bug", job=job.id)
                self._fail(job, InternalError("Something went wrong inside the server; it has been logged.").failure)

    def _stage_in(self, job: LeasedJob) -> None:
        """Fetch and decode, check, rewrite, and hand the edits to the engine; a refusal costs no time of the device."""
        began = time.monotonic()
        request, moderation = job.lease.job.request, self.policy.moderation
        notices = [*moderation.notices(request), *moderation.check_prompt(request, request.prompt, job=job.id)]
        staged = stage_in(request, self._checkpoint, self._read, self._find_lora)
        try:
            notices += moderation.check_inputs(request, staged.images, job=job.id)
        except ContentRefused as refusal:
            self._delete([image.blob for image in request.images if image.blob and image.field == refusal.field])
            raise
        expansion, more = self._expand(job, staged.images)
        staged = staged.with_prompt(expansion, (*notices, *more))
        job.stage_in_s = time.monotonic() - began
        job.work = work_of_spec(staged.specs[0], len(staged.images), self._checkpoint)
        job.staged = staged
        assert self.engine is not None, "jobs are leased after the engine is loaded"
        inputs = self.engine.stage(staged.specs[0], staged.images)
        # One after the other on the device, since their places follow one another.
        for number, (edit_id, spec) in enumerate(zip(job.edit_ids, staged.specs, strict=True)):
            if job.closed:
                break
            self.engine.add(spec, staged.images, edit_id=edit_id, place=(*job.place, number), inputs=inputs)
        if job.closed:  # by another thread, whose own drop may have come before the last `add`
            self._drop_edits(job)

    def _expand(self, job: LeasedJob, inputs: Sequence[Pixels]) -> tuple[str, tuple[Notice, ...]]:
        """The words to use, decided once for all attempts of the job, and what is to be said of them."""
        request = job.lease.job.request
        if not request.enable_prompt_expansion:
            return request.prompt, ()
        expansion = request.expansion
        if expansion is None:
            if self.policy.expander is None:
                detail = "This server has no prompt expansion; the prompt was used."
                return request.prompt, (Notice(EXPANSION, "ignored", detail),)
            assert self.engine is not None, "jobs are leased after the engine is loaded"
            check = self.engine.check_prompt
            rewrite = self.policy.expander.expand(request.prompt, inputs, check, cancelled=lambda: job.closed)
            words, reason = rewrite.prompt, rewrite.reason
            try:
                if words is not None:
                    self.policy.moderation.check_prompt(request, words, job=job.id)
            except ContentRefused:
                words, reason = None, "the safety checker refused the rewritten prompt"
            except SafetyUnavailable:
                words, reason = None, "the safety checker could not check the rewritten prompt"
            expansion = Expansion(request.prompt, reason) if words is None else Expansion(words)
            self._service.keep_expansion(job.lease, expansion)
        if expansion.reason:
            detail = f"The prompt was used as it is: {expansion.reason}."
            return expansion.prompt, (Notice(EXPANSION, "ignored", detail),)
        return expansion.prompt, (Notice(EXPANSION, "converted", expansion.prompt),)

    def dispatch(self, report: StepReport) -> None:
        """Pass on what one tick of the engine did; called by the engine's thread, so nothing here may wait."""
        assert self.engine is not None, "only a loaded engine reports"
        for progress in report.progressed:
            job = self._job_of(progress.edit_id)
            if job is not None:
                assert job.work is not None, "the engine runs what was staged"
                job.steps_done[progress.edit_id] = progress.step
                self.costs.observe(job.work, "denoise", report.seconds / len(report.progressed))
                image = int(progress.edit_id.rpartition("/")[2])
                if image in job.previews_wanted and self._preview_slots.acquire(blocking=False):
                    job.previews_wanted.discard(image)
                    pixels = self.engine.preview(progress.edit_id)
                    self._checking_previews.submit(self._check_preview, job, image, pixels, progress.step)
        for finished in report.finished:
            job = self._job_of(finished.edit_id)
            if job is not None:
                assert job.work is not None, "the engine runs what was staged"
                self.costs.observe(job.work, "prepare", finished.timings["prepare"])
                self.costs.observe(job.work, "decode", finished.timings["decode"])
                job.images[finished.edit_id] = finished.pixels
                job.timings[finished.edit_id] = finished.timings
                job.notices += [notice for notice in finished.notices if notice not in job.notices]
                if job.made:
                    future = self._staging_out.submit(self._run_stage, job, self._stage_out)
                    self._storing.add(future)
                    future.add_done_callback(self._storing.discard)
        for failed in report.failed:
            job = self._job_of(failed.edit_id)
            if job is not None:
                self._staging_out.submit(self._fail, job, failed.error.failure)

    def _job_of(self, edit_id: str) -> LeasedJob | None:
        """The job that an edit of the engine belongs to; None when it has left."""
        with self._lock:
            return self._jobs.get(edit_id.rpartition("/")[0])

    def _check_preview(self, job: LeasedJob, image: int, pixels: Pixels | None, step: int) -> None:
        """Leave a preview for the heartbeat to publish, if it may be seen."""
        try:
            if pixels is not None and self.policy.moderation.allows_preview(job.lease.job.request, pixels, job=job.id):
                job.previews[image] = pixels, step
        finally:
            self._preview_slots.release()

    def _stage_out(self, job: LeasedJob) -> None:
        """Check, encode and store every image, then record the end; what was stored goes when that is refused.

        All are checked before the first is encoded: a flagged image exists in this process's memory only.
        """
        began = time.monotonic()
        staged, request, delivery = job.staged, job.lease.job.request, job.lease.job.delivery
        assert staged is not None, "an image is made of staged inputs"
        media_type = request.output_format.media_type
        ttl_s = self._settings.output_ttl_s if delivery.retention_s is None else delivery.retention_s
        outputs: list[OutputImage] = []
        bucket = self._service.bucket_of(job.lease)
        finished = [finish_image(job.images[edit_id], staged) for edit_id in job.edit_ids]
        flags, found = self.policy.moderation.check_outputs(request, finished, job=job.id)
        notices: list[Notice] = [*found]
        try:
            for pixels, flagged, spec in zip(finished, flags, staged.specs, strict=True):
                delivered = np.zeros_like(pixels) if flagged else pixels
                data = self.policy.provenance.encode(delivered, request.output_format, request.output_quality)
                put = partial(self._blobs.put, data, media_type, folder="outputs", ttl_s=ttl_s)
                key = self._retry_while_unavailable(put)
                height, width = delivered.shape[:2]
                outputs.append(OutputImage(key, width, height, media_type, len(data), spec.seed, flagged))
                if bucket is not None:
                    outputs[-1], trouble = self._caller_buckets.deliver(bucket, job.id, len(outputs), outputs[-1], data)
                    notices += trouble
            if any(flags):
                logs = [notice.detail for notice in found]
                self._service.progress(job.lease, step=job.step, steps=job.steps, logs=logs)
            output = job.output(outputs, self._checkpoint, notices, time.monotonic() - began)
            if not job.close():
                raise LeaseLost("The job ended while its image was stored.")
            try:
                self._retry_while_unavailable(lambda: self._service.finish(job.lease, output, job.usage(output)))
            except BaseException:
                job.closed = False  # so that `_run_stage` can end it in another way
                raise
        except RetouchError:
            self._delete([image.blob for image in outputs])
            raise
        self.costs.observe_around(output.timings["stage_in"] + output.timings["stage_out"])
        self._forget(job)
        with self._lock:
            for name, seconds in output.timings.items():
                self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        logger.info("job finished", job=job.id, **{name: round(value, 4) for name, value in output.timings.items()})

    def _retry_while_unavailable(self, call: Callable[[], T]) -> T:
        """Repeat `call` while what it needs is away, for `outage_s`; a finished image is worth it."""
        until = time.monotonic() + self._settings.outage_s
        while True:
            try:
                return call()
            except Unavailable as error:
                if time.monotonic() >= until or self._lifecycle.reached(Phase.STOPPING):
                    raise
                logger.warning("waiting to store a result", reason=error.message)
                self._lifecycle.wait(Phase.STOPPING, self._settings.outage_pause_s)

    # -- endings --------------------------------------------------------------------------------------

    def cancel(self, job: LeasedJob) -> None:
        """Stop the edit on its owner's wish."""
        if job.close():
            logger.info("job cancelled", job=job.id, step=job.step)
            self._record_end(job, self._service.acknowledge_cancel)

    def drop_lost(self, job: LeasedJob) -> None:
        """Drop a job that is another worker's by now, or was ended elsewhere; the service hears nothing of it."""
        if not job.close():
            return  # another thread is ending it, which ends its lease as well: a renewal may hear of that first
        self._drop_edits(job)
        self._forget(job)
        logger.warning("lease lost; the edit is dropped", job=job.id)

    def _fail(self, job: LeasedJob, failure: Failure) -> None:
        if job.close():
            logger.info("job failed", job=job.id, code=failure.code)
            record = partial(self._service.fail, job.lease, failure)
            self._record_end(job, lambda _: self._retry_while_unavailable(record))

    def _give_back(self, job: LeasedJob) -> None:
        """Let another worker have a job that this one has closed; costs no attempt."""
        logger.info("lease given back", job=job.id)
        self._record_end(job, self._service.release)

    def lose_jobs(self, loss: DeviceLost) -> None:
        """End the attempt of each job that was on the lost device; the stop gives back those that still waited."""
        for job in self.jobs:
            edits = frozenset(job.edit_ids)
            if edits & loss.present:
                self._lose(job, at_work=bool(edits & loss.at_work))

    def _lose(self, job: LeasedJob, *, at_work: bool) -> None:
        if job.close():
            logger.warning("job lost with the device", job=job.id, attempt=job.lease.job.attempt, at_work=at_work)
            self._record_end(job, lambda lease: self._service.lose(lease, at_work=at_work))

    def _record_end(self, job: LeasedJob, verb: Callable[[Lease], object]) -> None:
        """Tell the service how a closed job ended. When that cannot be done, its lease runs out by itself."""
        self._drop_edits(job)
        try:
            verb(job.lease)
        except (LeaseLost, UnknownJob, Unavailable) as error:
            logger.warning("the end of a job could not be recorded", job=job.id, reason=error.message)
        finally:
            self._forget(job)

    def _forget(self, job: LeasedJob) -> None:
        with self._lock:
            self._jobs.pop(job.key, None)

    def _drop_edits(self, job: LeasedJob) -> None:
        if self.engine is not None:
            for edit_id in job.edit_ids:
                self.engine.cancel(edit_id)

    def _delete(self, blobs: Sequence[str]) -> None:
        """Remove what no caller is to have; its life is limited anyway."""
        for blob in blobs:
            try:
                self._blobs.delete(blob)
            except Unavailable as error:
                logger.warning("an unneeded file stays until it expires", blob=blob, reason=error.message)

    # -- all jobs together ----------------------------------------------------------------------------

    @property
    def jobs(self) -> tuple[LeasedJob, ...]:
        """All that are leased now."""
        with self._lock:
            return tuple(self._jobs.values())

    def on_their_way_since(self) -> float | None:
        """When the oldest job was leased that the device is to do something for; None when there is none. Monotonic."""
        return min((job.leased_at for job in self.jobs if not job.closed and not job.made), default=None)

    def seconds_before(self, place: Place) -> float:
        """How long the device is busy with what stands before a place.

        A job whose images are still on their way after `slow_staging_s` does not count: the device may have to wait.
        """
        late = time.monotonic() - self._settings.slow_staging_s
        ready = (job for job in self.jobs if job.place < place and (job.staged is not None or job.leased_at > late))
        return sum(job.seconds_left for job in ready)

    def seconds_left(self, job: LeasedJob) -> float:
        """Until its images are there, with what goes before it on this device."""
        return self.seconds_before(job.place) + job.seconds_left + self.costs.cost.around_s

    def give_back_late(self, seconds: float) -> None:
        """Let other workers have the jobs that have not begun and have more than so many seconds before them."""
        for job in self.jobs:
            if self.seconds_before(job.place) > seconds:
                self._give_back_untouched(job)

    def give_back_behind(self, place: Place) -> None:
        """Make room for a job at `place`: the last one behind it goes back that has not begun."""
        for job in sorted(self.jobs, key=lambda job: job.place, reverse=True):
            if job.place < place or self._give_back_untouched(job):
                return

    def _give_back_untouched(self, job: LeasedJob) -> bool:
        # In this order: the engine forgets an edit that it has decoded, whose steps were counted before that.
        begun = self.engine is not None and any(self.engine.begun(edit_id) for edit_id in job.edit_ids)
        if begun or job.step > 0 or not job.close():
            return False
        self._give_back(job)
        return True

    def give_back_unfinished(self) -> None:
        """Let other workers have the jobs that have no image yet; the others are worth a moment more."""
        for job in self.jobs:
            if not job.images and job.close():
                self._give_back(job)

    def close(self, *, storing_s: float) -> None:
        """Give images that are being stored `storing_s` to arrive, then give back whatever is left."""
        wait(tuple(self._storing), timeout=storing_s)
        for job in self.jobs:
            if job.close():
                self._give_back(job)
        for threads in (self._staging_in, self._staging_out, self._checking_previews):
            threads.shutdown(wait=False, cancel_futures=True)  # one may be inside a download that takes minutes
