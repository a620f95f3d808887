"""The road of a job through one device: lease, stage in, step, stage out, finish.

Four kinds of thread: one leases, a few stage beside the device, one drives the engine, and the liaison
keeps the leases. A job has exactly one of them at a time and is ended once (`HeldJob.close`). What a lost
worker made is refused by the service's fence; nothing here decides states or money.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from retouch import images
from retouch.catalog import Checkpoint
from retouch.edit import EditOutput, OutputImage
from retouch.engine.engine import Engine, StepReport
from retouch.engine.pipeline import Pipeline
from retouch.errors import Failure, InternalError, LeaseLost, RetouchError, Unavailable, UnknownJob
from retouch.jobs.job import Lease
from retouch.jobs.wakeups import WakeUps, queue_topic
from retouch.service import Service
from retouch.storage.blobs import DEFAULT_TTL_S, Blobs
from retouch.worker.held import HeldJob, HeldJobs
from retouch.worker.liaison import Liaison, Rhythm
from retouch.worker.outcome import output_of, usage_of
from retouch.worker.staging import ReadInput, finish_image, stage_in

logger = structlog.get_logger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How much one worker takes on, and how patient it is. Times in seconds.

    running: edits that take turns on the device. ahead: jobs staged beside them, so that the device never
    waits for a download. poll_s: look for jobs this often when no wake-up comes. outage_s: how long a
    finished image is offered to a store or database that is away before the job goes back to the queue.
    stop_s: how long a stop waits for images that are being stored. output_ttl_s: life of output files
    when the request says nothing.
    """

    running: int = 4
    ahead: int = 2
    poll_s: float = 1.0
    outage_s: float = 30.0
    outage_pause_s: float = 2.0
    stop_s: float = 3.0
    output_ttl_s: float = DEFAULT_TTL_S
    rhythm: Rhythm = field(default_factory=Rhythm)


class Worker:
    """One device's worker. `run` blocks until it is told to stop."""

    def __init__(
        self,
        name: str,
        *,
        service: Service,
        blobs: Blobs,
        wakeups: WakeUps,
        read: ReadInput,
        load: Callable[[], Pipeline],
        checkpoint: Checkpoint,
        settings: WorkerSettings,
        device: str = "auto",
    ) -> None:
        """`load` brings the pipeline into memory; it is called once, in the thread that will drive it."""
        self._name = name
        self._service = service
        self._blobs = blobs
        self._wakeups = wakeups
        self._read = read
        self._load = load
        self._checkpoint = checkpoint
        self._settings = settings
        self._held = HeldJobs()
        self._slots = threading.Semaphore(settings.running + settings.ahead)
        self._stop = threading.Event()
        self._stopping = threading.Event()
        self._abandoned = threading.Event()
        self._work = threading.Event()
        self._engine: Engine | None = None
        self._crash: BaseException | None = None
        self._staging_in = ThreadPoolExecutor(settings.running + settings.ahead, "stage-in")
        self._staging_out = ThreadPoolExecutor(2, "stage-out")
        self._storing: set[Future[None]] = set()
        self._leasing = self._thread("lease", self._lease_jobs)
        self._liaison = Liaison(
            name,
            (checkpoint.name,),
            device,
            service,
            blobs,
            wakeups,
            self._held,
            settings.rhythm,
            cancelled=self._cancel,
            lost=self._lose,
        )

    def run(self, stop: threading.Event) -> None:
        """Load the model and work until `stop` is set, then give back what is not done and return.

        Raises what loading or driving the engine raised. When it returns while the device is inside a step, that
        step's thread is still alive; it holds nothing any more.
        """
        self._stop = stop
        self._thread("liaison", lambda: self._liaison.run(self._abandoned)).start()
        self._thread("engine", self._drive).start()
        stop.wait()
        self._stopping.set()
        self._work.set()
        self._wind_down()
        if self._crash is not None:
            raise self._crash

    def _thread(self, name: str, work: Callable[[], None]) -> threading.Thread:
        """A thread whose unforeseen end is the end of the worker: a lame one would hold jobs and not run them."""

        def guarded() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - handed to the thread that called run, which raises it
                self._crash = self._crash or error
                self._stop.set()

        return threading.Thread(target=guarded, name=name, daemon=True)

    def _wind_down(self) -> None:
        """Let images that are being stored finish, give every other job back, close the threads."""
        began = time.monotonic()
        for job in self._held.all():
            if not job.images and job.close():
                self._give_back(job)
        if self._leasing.ident is not None:
            self._leasing.join(2 * self._settings.poll_s)
        wait(tuple(self._storing), timeout=max(0.0, self._settings.stop_s - (time.monotonic() - began)))
        for job in self._held.all():
            if job.close():
                self._give_back(job)
        self._abandoned.set()
        self._staging_in.shutdown(wait=False, cancel_futures=True)
        self._staging_out.shutdown(wait=False, cancel_futures=True)

    # -- leasing ---------------------------------------------------------------------------------------

    def _lease_jobs(self) -> None:
        """Take jobs while there is room for them, woken by the queue's topic."""
        with contextlib.closing(self._wakeups.subscribe((queue_topic(self._checkpoint.name),))) as subscription:
            while not self._stopping.is_set():
                if not self._slots.acquire(timeout=self._settings.poll_s):
                    continue
                lease = self._lease_one()
                if lease is None:
                    self._slots.release()
                    subscription.wait(self._settings.poll_s)
                    continue
                self._accept(lease)

    def _lease_one(self) -> Lease | None:
        if self._stopping.is_set():
            return None
        try:
            return self._service.lease(self._name, (self._checkpoint.name,), self._settings.rhythm.lease_s)
        except Unavailable as error:
            logger.warning("cannot lease", reason=error.message)
            self._stopping.wait(self._settings.outage_pause_s)
            return None

    def _accept(self, lease: Lease) -> None:
        job = HeldJob(lease, preview_wanted=lease.job.delivery.previews > 0)
        self._held.add(job)
        logger.info("job leased", job=job.id, attempt=lease.attempt, model=lease.job.request.model)
        if self._stopping.is_set() and job.close():
            self._give_back(job)
            return
        self._staging_in.submit(self._around, job, self._stage_in)

    # -- one job's stations ----------------------------------------------------------------------------

    def _around(self, job: HeldJob, station: Callable[[HeldJob], None]) -> None:
        """Run one station; whatever goes wrong in it ends this job and no other."""
        if job.closed:
            return
        try:
            station(job)
        except LeaseLost:
            self._lose(job)
        except Unavailable as error:
            if job.close():
                logger.warning("storage or database is away", job=job.id, reason=error.message)
                self._stopping.wait(self._settings.outage_pause_s)
                self._give_back(job)
        except RetouchError as error:
            self._fail(job, error.failure)
        except Exception:
            logger.exception("job failed by a bug", job=job.id)
            self._fail(job, InternalError("Something went wrong inside the server; it has been logged.").failure)

    def _stage_in(self, job: HeldJob) -> None:
        began = time.monotonic()
        staged = stage_in(job.lease.job.request, self._checkpoint, self._read)
        job.stage_in_s = time.monotonic() - began
        job.staged = staged
        assert self._engine is not None, "jobs are leased after the engine is loaded"
        for edit_id, spec in zip(job.edit_ids, staged.specs, strict=True):
            if job.closed:
                break
            self._engine.add(spec, staged.images, edit_id=edit_id)
        if job.closed:
            self._drop_edits(job)
        self._work.set()

    def _stage_out(self, job: HeldJob) -> None:
        began = time.monotonic()
        outputs: list[OutputImage] = []
        try:
            for index in range(len(job.edit_ids)):
                outputs.append(self._store_image(job, index))  # noqa: PERF401 - those stored so far are deleted on error
            output = output_of(job, outputs, self._checkpoint, stage_out_s=time.monotonic() - began)
            self._finish(job, output)
        except RetouchError:
            self._delete(outputs)
            raise
        self._liaison.spent(output.timings)
        seconds = {name: round(value, 4) for name, value in output.timings.items()}
        logger.info("job finished", job=job.id, **seconds)

    def _store_image(self, job: HeldJob, index: int) -> OutputImage:
        staged, request, delivery = job.staged, job.lease.job.request, job.lease.job.delivery
        assert staged is not None, "an image is made of staged inputs"
        pixels = finish_image(job.images[job.edit_ids[index]], staged)
        data = images.encode(pixels, request.output_format, request.output_quality)
        media_type = request.output_format.media_type
        ttl_s = self._settings.output_ttl_s if delivery.retention_s is None else delivery.retention_s
        key = self._outlast(lambda: self._blobs.put(data, media_type, folder="outputs", ttl_s=ttl_s))
        height, width = pixels.shape[:2]
        return OutputImage(key, width, height, media_type, len(data), staged.specs[index].seed)

    def _finish(self, job: HeldJob, output: EditOutput) -> None:
        if not job.close():
            raise LeaseLost("The job ended while its image was stored.")
        try:
            usage = usage_of(job, output)
            self._outlast(lambda: self._service.finish(job.lease, output, usage))
        except BaseException:
            job.reopen()
            raise
        self._leave(job)

    def _outlast(self, verb: Callable[[], T]) -> T:
        """Repeat `verb` while what it needs is away, for `outage_s`; a finished image is worth it."""
        until = time.monotonic() + self._settings.outage_s
        while True:
            try:
                return verb()
            except Unavailable as error:
                if time.monotonic() >= until or self._stopping.is_set():
                    raise
                logger.warning("waiting to store a result", reason=error.message)
                self._stopping.wait(self._settings.outage_pause_s)

    # -- the device ------------------------------------------------------------------------------------

    def _drive(self) -> None:
        """Load, then step while there is work."""
        pipeline = self._load()
        self._engine = engine = Engine(pipeline, max_running=self._settings.running)
        self._liaison.state = "ready"
        self._leasing.start()
        while not self._stopping.is_set():
            if engine.busy:
                self._hand_on(engine, engine.step())
            elif self._work.wait(self._settings.poll_s):
                self._work.clear()

    def _hand_on(self, engine: Engine, report: StepReport) -> None:
        for progress in report.progressed:
            job = self._held.of_edit(progress.edit_id)
            if job is not None:
                job.moved(progress)
                self._take_preview(engine, job, progress.edit_id)
        for finished in report.finished:
            job = self._held.of_edit(finished.edit_id)
            if job is not None:
                job.images[finished.edit_id] = finished.pixels
                job.timings[finished.edit_id] = finished.timings
                if job.complete:
                    self._store(job)
        for failed in report.failed:
            job = self._held.of_edit(failed.edit_id)
            if job is not None:
                self._staging_out.submit(self._fail, job, failed.error.failure)

    def _take_preview(self, engine: Engine, job: HeldJob, edit_id: str) -> None:
        if job.preview_wanted:
            job.preview_wanted = False
            job.preview = engine.preview(edit_id)

    def _store(self, job: HeldJob) -> None:
        future = self._staging_out.submit(self._around, job, self._stage_out)
        self._storing.add(future)
        future.add_done_callback(self._storing.discard)

    # -- endings ---------------------------------------------------------------------------------------

    def _cancel(self, job: HeldJob) -> None:
        if job.close():
            self._drop_edits(job)
            logger.info("job cancelled", job=job.id, step=job.step)
            self._tell_end(job, self._service.acknowledge_cancel)

    def _fail(self, job: HeldJob, failure: Failure) -> None:
        if job.close():
            self._drop_edits(job)
            logger.info("job failed", job=job.id, code=failure.code)
            self._tell_end(job, lambda lease: self._outlast(lambda: self._service.fail(lease, failure)))

    def _give_back(self, job: HeldJob) -> None:
        """Let another worker have a job that this one has closed; costs no attempt."""
        self._drop_edits(job)
        logger.info("lease given back", job=job.id)
        self._tell_end(job, self._service.release)

    def _lose(self, job: HeldJob) -> None:
        job.close()
        self._drop_edits(job)
        if self._leave(job):
            logger.warning("lease lost; the edit is dropped", job=job.id)

    def _tell_end(self, job: HeldJob, verb: Callable[[Lease], object]) -> None:
        """One last word about a closed job. If it cannot be said the lease runs out by itself."""
        try:
            verb(job.lease)
        except (LeaseLost, UnknownJob, Unavailable) as error:
            logger.warning("the end of a job could not be told", job=job.id, reason=error.message)
        finally:
            self._leave(job)

    def _leave(self, job: HeldJob) -> bool:
        if not self._held.remove(job):
            return False
        self._slots.release()
        return True

    def _drop_edits(self, job: HeldJob) -> None:
        if self._engine is not None:
            for edit_id in job.edit_ids:
                self._engine.cancel(edit_id)

    def _delete(self, outputs: list[OutputImage]) -> None:
        """Remove what was stored for a job that did not end here; its life is limited anyway."""
        for image in outputs:
            try:
                self._blobs.delete(image.blob)
            except Unavailable as error:
                logger.warning("an unneeded file stays until it expires", blob=image.blob, reason=error.message)
