"""One leased job through this worker: stage in, the engine's edits, stage out, and each way it can end.

A job has exactly one thread at a time and is ended once (`LeasedJob.close`). When jobs are leased and when the
engine steps is `worker.py`'s matter; states and money are the service's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import TypeVar

import numpy as np
import structlog

from retouch.catalog import Checkpoint
from retouch.edit import Expansion, Notice, OutputImage
from retouch.engine.cost import STAGES, CostLearner, work_of, work_of_spec
from retouch.engine.device_errors import DeviceLost, is_device_loss
from retouch.engine.engine import Engine, StepReport
from retouch.engine.rewrite import PromptExpander
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
from retouch.jobs.fair_queue import Place
from retouch.jobs.job import Lease
from retouch.service import Service
from retouch.storage.blobs import Blobs
from retouch.storage.caller_bucket import CallerBuckets
from retouch.worker.leased import LeasedJob, LeasedJobs
from retouch.worker.lifecycle import Lifecycle, Phase
from retouch.worker.policy import JobPolicy
from retouch.worker.priority import work_in_the_background
from retouch.worker.settings import WorkerSettings
from retouch.worker.shared_device import DeviceTime
from retouch.worker.staging import FindLora, ReadInput, finish_image, stage_in

logger = structlog.get_logger(__name__)

T = TypeVar("T")

EXPANSION = "enable_prompt_expansion"

PREVIEWS_CHECKED = 4
"""Previews that may wait for the checker; with more, the next one is taken later."""


class JobRunner:
    """Runs leased jobs. `engine`, `costs` and `policy` are set when the model is loaded, before a job is leased.

    seconds: device and staging time by stage since the start, of all finished jobs. device_time: written by the thread
    that drives the engine.
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
        self.leased = LeasedJobs()
        self.engine: Engine | None = None
        self.costs = CostLearner()
        self.policy = JobPolicy()
        self.seconds: dict[str, float] = {}
        self.device_time = DeviceTime()
        self._seconds_lock = threading.Lock()
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
            job.previews_wanted.update(range(lease.job.request.num_images))
        self.leased.add(job)
        logger.info("job leased", job=job.id, attempt=lease.job.attempt, model=lease.job.request.model)
        if not self._lifecycle.reached(Phase.STOPPING):
            self._staging_in.submit(self._run_stage, job, self._stage_in)
        elif job.close():  # the stop came while it was being leased
            self._give_back(job)

    def seconds_left(self, job: LeasedJob) -> float:
        """Until its images are there, with what goes before it on this device."""
        before = self.leased.seconds_before(job.place, slow_staging_s=self._settings.slow_staging_s)
        return before + job.seconds_left + self.costs.cost.around_s

    def give_back_late(self, seconds: float) -> None:
        """Let other workers have the jobs that have not begun and have more than so many seconds before them."""
        for job in self.leased.all():
            before = self.leased.seconds_before(job.place, slow_staging_s=self._settings.slow_staging_s)
            if before > seconds:
                self._give_back_untouched(job)

    def give_back_behind(self, place: Place) -> None:
        """Make room for a job at `place`: the last one behind it goes back that has not begun."""
        for job in sorted(self.leased.all(), key=lambda job: job.place, reverse=True):
            if job.place < place or self._give_back_untouched(job):
                return

    def _give_back_untouched(self, job: LeasedJob) -> bool:
        # In this order: the engine forgets an edit that it has decoded, whose steps were counted before that.
        begun = self.engine is not None and any(self.engine.begun(edit_id) for edit_id in job.edit_ids)
        if begun or job.step > 0 or not job.close():
            return False
        self._give_back(job)
        return True

    def dispatch(self, report: StepReport) -> None:
        """Pass on what one tick of the engine did; called by the engine's thread, so nothing here may wait."""
        assert self.engine is not None, "only a loaded engine reports"
        for progress in report.progressed:
            job = self.leased.of_edit(progress.edit_id)
            if job is not None:
                job.steps_done[progress.edit_id] = progress.step
                self._learn(job, denoise=report.seconds / len(report.progressed))
                image = int(progress.edit_id.rpartition("/")[2])
                if image in job.previews_wanted and self._preview_slots.acquire(blocking=False):
                    job.previews_wanted.discard(image)
                    pixels = self.engine.preview(progress.edit_id)
                    self._checking_previews.submit(self._check_preview, job, image, pixels, progress.step)
        for finished in report.finished:
            job = self.leased.of_edit(finished.edit_id)
            if job is not None:
                job.images[finished.edit_id] = finished.pixels
                job.timings[finished.edit_id] = finished.timings
                self._learn(job, prepare=finished.timings["prepare"], decode=finished.timings["decode"])
                job.notices += [notice for notice in finished.notices if notice not in job.notices]
                if len(job.images) == len(job.edit_ids):
                    future = self._staging_out.submit(self._run_stage, job, self._stage_out)
                    self._storing.add(future)
                    future.add_done_callback(self._storing.discard)
        for failed in report.failed:
            job = self.leased.of_edit(failed.edit_id)
            if job is not None:
                self._staging_out.submit(self._fail, job, failed.error.failure)

    def _learn(self, job: LeasedJob, **seconds: float) -> None:
        """Teach what stages of one of the job's images took; of one step, for `denoise`."""
        assert job.work is not None, "the engine runs what was staged"
        for stage in STAGES & seconds.keys():
            self.costs.observe(job.work, stage, seconds[stage])

    def give_back_unfinished(self) -> None:
        """Let other workers have the jobs that have no image yet; the others are worth a moment more."""
        for job in self.leased.all():
            if not job.images and job.close():
                self._give_back(job)

    def close(self, *, storing_s: float) -> None:
        """Give images that are being stored `storing_s` to arrive, then give back whatever is left."""
        wait(tuple(self._storing), timeout=storing_s)
        for job in self.leased.all():
            if job.close():
                self._give_back(job)
        self._staging_in.shutdown(wait=False, cancel_futures=True)
        self._staging_out.shutdown(wait=False, cancel_futures=True)
        self._checking_previews.shutdown(wait=False, cancel_futures=True)

    # -- stages ----------------------------------------------------------------------------------------

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
            expansion = self._decide(job, self.policy.expander, inputs)
            self._service.keep_expansion(job.lease, expansion)
        if expansion.reason:
            detail = f"The prompt was used as it is: {expansion.reason}."
            return expansion.prompt, (Notice(EXPANSION, "ignored", detail),)
        return expansion.prompt, (Notice(EXPANSION, "converted", expansion.prompt),)

    def _decide(self, job: LeasedJob, expander: PromptExpander, inputs: Sequence[Pixels]) -> Expansion:
        """The rewritten prompt if it may be used, else the caller's and why."""
        assert self.engine is not None, "jobs are leased after the engine is loaded"
        engine, request = self.engine, job.lease.job.request

        rewrite = expander.expand(request.prompt, inputs, engine.check_prompt, cancelled=lambda: job.closed)
        if rewrite.prompt is None:
            return Expansion(request.prompt, rewrite.reason)
        try:
            self.policy.moderation.check_prompt(request, rewrite.prompt, job=job.id)
        except ContentRefused:
            return Expansion(request.prompt, "the safety checker refused the rewritten prompt")
        except SafetyUnavailable:
            return Expansion(request.prompt, "the safety checker could not check the rewritten prompt")
        return Expansion(rewrite.prompt)

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
                shown = np.zeros_like(pixels) if flagged else pixels
                data = self.policy.provenance.encode(shown, request.output_format, request.output_quality)
                put = partial(self._blobs.put, data, media_type, folder="outputs", ttl_s=ttl_s)
                key = self._retry_while_unavailable(put)
                height, width = shown.shape[:2]
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
                job.reopen()  # so that `_run_stage` can end it in another way
                raise
        except RetouchError:
            self._delete([image.blob for image in outputs])
            raise
        self.leased.remove(job)
        self.costs.observe_around(output.timings["stage_in"] + output.timings["stage_out"])
        with self._seconds_lock:
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

    # -- endings ---------------------------------------------------------------------------------------

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
        self.leased.remove(job)
        logger.warning("lease lost; the edit is dropped", job=job.id)

    def _fail(self, job: LeasedJob, failure: Failure) -> None:
        if job.close():
            logger.info("job failed", job=job.id, code=failure.code)
            self._record_end(
                job, lambda lease: self._retry_while_unavailable(lambda: self._service.fail(lease, failure))
            )

    def _give_back(self, job: LeasedJob) -> None:
        """Let another worker have a job that this one has closed; costs no attempt."""
        logger.info("lease given back", job=job.id)
        self._record_end(job, self._service.release)

    def lose_jobs(self, loss: DeviceLost) -> None:
        """End the attempt of each job that was on the lost device; the stop gives back those that still waited."""
        for job in self.leased.all():
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
            self.leased.remove(job)

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
