"""One worker on a real service: what becomes of a job, and of its lease."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from structlog.testing import capture_logs

from retouch import images
from retouch.edit import EditSpec, ImageInput, Notice, OutputFormat, SizeRequest
from retouch.engine.pipeline import DenoiseState
from retouch.engine.pipelines.null import NullPipeline
from retouch.errors import EditTimeout, InternalError, LeaseLost, UnsupportedParameter
from retouch.images import Pixels
from retouch.jobs.job import JobState, Lease
from retouch.storage.objects import read_key
from retouch.worker.job_runner import BUSY, WAITED
from retouch.worker.settings import HeartbeatSettings, WorkerSettings
from tests.harness import ANNE, DELIVERY, Deployment, GatedPipeline, png
from tests.waiting import until

HASTY = WorkerSettings(
    poll_s=0.2, outage_pause_s=0.05, heartbeat=HeartbeatSettings(lease_s=0.6, progress_s=0.05, preview_s=0.0)
)


def test_a_job_ends_with_its_image_its_timings_and_its_usage(bench: Deployment) -> None:
    job = bench.submit(steps=3, size=SizeRequest(width=96, height=80))
    with bench.worker():
        done = bench.finished(job.id)
    assert done.state is JobState.SUCCEEDED, done.failure
    assert done.output is not None
    assert done.usage is not None
    [image] = done.output.images
    assert (image.width, image.height, image.media_type, image.seed) == (96, 80, "image/png", 7)
    stored = bench.blobs.get(image.blob)
    assert len(stored.data) == image.size_bytes
    assert images.decode(stored.data).shape == (80, 96, 3)
    assert {"stage_in", "prepare", "denoise", "decode", "stage_out", "inference"} <= set(done.output.timings)
    assert (done.usage.images, done.usage.pixels, done.usage.steps) == (1, 96 * 80, 3)


def test_a_worker_tells_what_its_jobs_have_cost(bench: Deployment) -> None:
    with bench.worker(settings=replace(HASTY, heartbeat=HeartbeatSettings(beat_s=0.05))):
        timings = [bench.finished(bench.submit().id).output for _ in range(2)]
        spent = sum(output.timings["stage_in"] for output in timings if output)

        def reported_s() -> float:
            return sum(worker.seconds.get("stage_in", 0.0) for worker in bench.service.statistics().workers)

        until(lambda: reported_s() == pytest.approx(spent))


def test_a_worker_tells_how_its_model_was_loaded_once_it_is(bench: Deployment) -> None:
    pipeline = NullPipeline()
    pipeline.facts = {"precision": "fp8"}
    with bench.worker(pipeline):
        until(lambda: [each.state for each in bench.service.statistics().workers] == ["ready"])
        [worker] = bench.service.statistics().workers
    assert worker.facts == {"device": "null", "precision": "fp8"}


def test_a_worker_tells_how_long_its_device_was_busy_and_waited_for_images(bench: Deployment) -> None:
    fetched = bench.gate

    def read(_: ImageInput) -> bytes:
        fetched.arrive()
        return png()

    with bench.worker(settings=replace(HASTY, heartbeat=HeartbeatSettings(beat_s=0.05)), read=read):
        job = bench.submit()

        def spent(name: str) -> float:
            return sum(worker.seconds.get(name, 0.0) for worker in bench.service.statistics().workers)

        fetched.wait_for_arrival()
        until(lambda: spent(WAITED) > 0.0)
        assert spent(BUSY) == 0.0
        fetched.open()
        bench.finished(job.id)
        until(lambda: spent(BUSY) > 0.0)
        waited = spent(WAITED)
        beats = [bench.service.statistics().workers[0].seen_at]
        until(lambda: bench.service.statistics().workers[0].seen_at > beats[0])
        assert spent(WAITED) == waited, "without an edit nothing is waited for"


def test_the_same_request_and_seed_give_the_same_bytes(bench: Deployment) -> None:
    jobs = [bench.submit() for _ in range(2)]
    with bench.worker():
        outputs = [bench.finished(job.id).output for job in jobs]
    first, second = [bench.blobs.get(output.images[0].blob).data for output in outputs if output]
    assert first == second


def test_several_images_have_seeds_that_count_up(bench: Deployment) -> None:
    job = bench.submit(num_images=3, seed=2**31 - 2, steps=2)
    with bench.worker():
        done = bench.finished(job.id)
    assert done.output is not None
    assert done.usage is not None
    assert [image.seed for image in done.output.images] == [2**31 - 2, 2**31 - 1, 0]
    assert (done.usage.images, done.usage.steps) == (3, 6)


def test_the_output_format_and_its_life_are_the_callers(bench: Deployment) -> None:
    job = bench.submit(output_format=OutputFormat.JPEG, delivery=replace(DELIVERY, retention_s=120.0))
    with bench.worker():
        done = bench.finished(job.id)
    assert done.output is not None
    image = done.output.images[0]
    assert image.media_type == "image/jpeg"
    expires_at = read_key(image.blob).expires_at
    assert expires_at is not None
    assert expires_at - datetime.now(UTC) < timedelta(seconds=125)


def test_an_undecodable_input_fails_with_the_fields_name(bench: Deployment) -> None:
    broken = bench.blobs.put(png()[:200], "image/png", folder="uploads")
    job = bench.submit(images=(ImageInput(blob=broken, field="images[0]"),))
    with bench.worker():
        failed = bench.finished(job.id)
    assert failed.failure is not None
    assert (failed.failure.code, failed.failure.field) == ("invalid_image", "images[0]")
    assert failed.usage is None


def test_an_input_that_is_gone_fails_with_the_fields_name(bench: Deployment) -> None:
    gone = bench.blobs.put(png(), "image/png", folder="uploads")
    job = bench.submit(images=(ImageInput(blob=gone, field="images[0]"),))
    bench.blobs.delete(gone)
    with bench.worker():
        failed = bench.finished(job.id)
    assert failed.failure is not None
    assert (failed.failure.code, failed.failure.field) == ("unknown_file", "images[0]")


def test_a_link_the_fetcher_refuses_fails_with_its_code(bench: Deployment) -> None:
    job = bench.submit(images=(ImageInput(url="http://10.0.0.1/cat.png", field="images[0]"),))
    with bench.worker():
        failed = bench.finished(job.id)
    assert failed.failure is not None
    assert (failed.failure.code, failed.failure.field) == ("forbidden_address", "images[0]")


def test_a_failed_job_does_not_disturb_the_next(bench: Deployment) -> None:
    class Moody(NullPipeline):
        def denoise(self, states: Sequence[DenoiseState]) -> None:
            if states[0].spec.seed == 13:
                raise ZeroDivisionError("a bug")
            super().denoise(states)

    with bench.worker(Moody()):
        failed = bench.finished(bench.submit(seed=13).id)
        done = bench.finished(bench.submit(seed=14).id)  # not at once, as one step may be of both
    assert failed.failure is not None
    assert failed.failure.code == "internal_error"
    assert "ZeroDivisionError" not in failed.failure.message
    assert done.state is JobState.SUCCEEDED


def test_a_cancel_stops_a_running_edit_within_one_step(bench: Deployment) -> None:
    pipeline = GatedPipeline(bench.gate)
    job = bench.submit(steps=50)
    with bench.worker(pipeline):
        bench.gate.wait_for_arrival()
        bench.service.cancel(ANNE, job.id)
        cancelled = bench.finished(job.id)
        bench.gate.let(1)
        after = bench.submit(steps=1)
        bench.gate.wait_for_arrival()
        bench.gate.let(1)
        bench.finished(after.id)
        assert bench.gate.arrivals == 2
    assert cancelled.state is JobState.CANCELLED
    assert cancelled.usage is None


def test_a_cancel_reaches_a_job_that_waits_for_the_device(bench: Deployment) -> None:
    pipeline = GatedPipeline(bench.gate)
    first = bench.submit(steps=1)
    with bench.worker(pipeline, settings=HASTY):
        bench.gate.wait_for_arrival()
        second = bench.submit(steps=1)  # not before, as either may be staged first
        until(lambda: bench.state(second.id) is JobState.RUNNING)
        bench.service.cancel(ANNE, second.id)
        assert bench.finished(second.id).state is JobState.CANCELLED
        bench.gate.let(1)
        assert bench.finished(first.id).state is JobState.SUCCEEDED
        assert bench.gate.arrivals == 1


def test_a_stop_gives_leases_back_and_costs_no_attempt(bench: Deployment) -> None:
    pipeline = GatedPipeline(bench.gate)
    jobs = [bench.submit(steps=5) for _ in range(3)]
    with bench.worker(pipeline) as worker:
        bench.gate.wait_for_arrival()
        until(lambda: all(bench.state(job.id) is JobState.RUNNING for job in jobs))
        worker.stop.set()
        worker.join()
        assert [bench.job(job.id).state for job in jobs] == [JobState.QUEUED] * 3
        assert [bench.job(job.id).attempt for job in jobs] == [0] * 3
    with bench.worker(name="worker-b"):
        assert [bench.finished(job.id).state for job in jobs] == [JobState.SUCCEEDED] * 3


def test_a_lease_outlives_a_prepare_that_is_longer_than_the_lease(bench: Deployment) -> None:
    pipeline = GatedPipeline(bench.gate, "prepare")
    job = bench.submit(steps=1)
    with bench.worker(pipeline, settings=HASTY):
        bench.gate.wait_for_arrival()
        end = datetime.now(UTC) + timedelta(seconds=2 * HASTY.heartbeat.lease_s)
        until(lambda: datetime.now(UTC) > end)
        assert bench.service.sweep().requeued == 0
        bench.gate.let(1)
        assert bench.finished(job.id).attempt == 1


def test_a_lost_lease_drops_the_edit_and_stores_nothing(bench: Deployment) -> None:
    pipeline = GatedPipeline(bench.gate)
    job = bench.submit(steps=2)
    forgetful = WorkerSettings(most_leased=1, heartbeat=HeartbeatSettings(lease_s=0.01, beat_s=60.0, progress_s=60.0))
    with capture_logs() as log, bench.worker(pipeline, settings=forgetful):
        bench.gate.wait_for_arrival()
        until(lambda: bench.service.sweep().requeued == 1)
        taken = bench.service.lease("worker-b", ("null",), 60.0)
        assert taken is not None
        bench.gate.let(2)
        until(lambda: any("lease lost" in line["event"] for line in log))
    assert bench.state(job.id) is JobState.RUNNING
    assert list(bench.blobs.keys("outputs")) == []
    assert bench.service.renew(taken, 60.0) is False
    with pytest.raises(LeaseLost):
        bench.service.renew(replace(taken, worker="worker-a"), 60.0)


def test_a_job_that_has_just_ended_is_not_called_lost(bench: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its row is final before its thread is back to say so, and the heartbeat's renewal is refused in between."""
    finish, renew, refused = bench.service.finish, bench.service.renew, []

    def finish_and_wait(*given: object, **named: object) -> object:
        ended = finish(*given, **named)
        bench.gate.arrive()
        return ended

    def renew_and_note(lease: Lease, lease_s: float) -> bool:
        try:
            return renew(lease, lease_s)
        except LeaseLost:
            refused.append(lease)
            raise

    monkeypatch.setattr(bench.service, "finish", finish_and_wait)
    monkeypatch.setattr(bench.service, "renew", renew_and_note)
    job = bench.submit(steps=1)
    with capture_logs() as log, bench.worker(settings=HASTY):
        bench.gate.wait_for_arrival()
        until(lambda: len(refused) == 2)  # the first one has been heard by then
        bench.gate.open()
        until(lambda: any(line["event"] == "job finished" for line in log))
    assert bench.state(job.id) is JobState.SUCCEEDED
    assert not [line for line in log if "lost" in line["event"]]


def test_a_worker_may_lease_again_what_it_lost_without_noticing(bench: Deployment) -> None:
    pipeline = GatedPipeline(bench.gate)
    job = bench.submit(steps=1)
    forgetful = WorkerSettings(poll_s=0.05, heartbeat=HeartbeatSettings(lease_s=0.3, beat_s=60.0, progress_s=60.0))
    with bench.worker(pipeline, settings=forgetful):
        bench.gate.wait_for_arrival()
        until(lambda: bench.service.sweep().requeued == 1)
        until(lambda: bench.job(job.id).attempt == 2)
        bench.gate.let(2)
        assert bench.finished(job.id).state is JobState.SUCCEEDED
    assert len(list(bench.blobs.keys("outputs"))) == 1


def test_progress_and_previews_are_reported_while_an_edit_runs(bench: Deployment) -> None:
    pipeline = GatedPipeline(bench.gate)
    job = bench.submit(steps=4)

    def kinds() -> list[str]:
        return [event.kind for event in bench.service.events(job.id)]

    with bench.worker(pipeline, settings=HASTY):
        bench.gate.let(1)
        until(lambda: "step" in kinds())
        bench.gate.let(1)
        until(lambda: kinds().count("step") == 2)
        bench.gate.let(1)
        until(lambda: "preview" in kinds())
        bench.gate.let(1)
        bench.finished(job.id)
    [preview] = [event.data["blob"] for event in bench.service.events(job.id) if event.kind == "preview"][:1]
    assert bench.blobs.get(str(preview)).media_type == "image/jpeg"


def test_a_caller_who_asked_for_previews_gets_them_from_the_first_step(bench: Deployment) -> None:
    pipeline = GatedPipeline(bench.gate)
    job = bench.submit(delivery=replace(DELIVERY, previews=2), steps=4)

    def previews() -> int:
        return [event.kind for event in bench.service.events(job.id)].count("preview")

    with bench.worker(pipeline, settings=replace(HASTY, heartbeat=replace(HASTY.heartbeat, preview_s=60))):
        for count in (1, 2, 3):
            bench.gate.let(1)
            until(lambda count=count: previews() == count)
        bench.gate.let(1)
        bench.finished(job.id)


def test_the_previews_of_a_job_with_several_images_say_which_they_are_of(bench: Deployment) -> None:
    pipeline = GatedPipeline(bench.gate)
    job = bench.submit(delivery=replace(DELIVERY, previews=2), steps=3, num_images=3)

    def previews() -> list[tuple[object, object]]:
        events = bench.service.events(job.id)
        return [(event.data["image"], event.data["step"]) for event in events if event.kind == "preview"]

    with bench.worker(pipeline, settings=HASTY):
        for step in range(1, 10):
            bench.gate.let(1)
            until(lambda step=step: bench.job(job.id).step >= step or bench.job(job.id).state.final)
        assert bench.finished(job.id).state is JobState.SUCCEEDED
    found = previews()
    assert {image for image, _ in found} == {0, 1, 2}
    assert all(found.count(each) == 1 for each in found), "an image's step is shown once"


def test_a_preview_that_cannot_be_stored_costs_neither_progress_nor_the_lease(bench: Deployment) -> None:
    pipeline = GatedPipeline(bench.gate)
    (bench.folder / "files" / "previews").touch()
    job = bench.submit(steps=3, delivery=replace(DELIVERY, previews=2))
    with bench.worker(pipeline, settings=HASTY):
        bench.gate.let(2)
        until(lambda: bench.job(job.id).step == 2)
        end = datetime.now(UTC) + timedelta(seconds=2 * HASTY.heartbeat.lease_s)
        until(lambda: datetime.now(UTC) > end)
        assert bench.service.sweep().requeued == 0
        bench.gate.let(1)
        assert bench.finished(job.id).state is JobState.SUCCEEDED


def test_a_job_that_was_ended_elsewhere_is_dropped(bench: Deployment) -> None:
    pipeline = GatedPipeline(bench.gate)
    job = bench.submit(steps=50)
    with bench.worker(pipeline, settings=replace(HASTY, heartbeat=HeartbeatSettings(lease_s=60.0))):
        bench.gate.wait_for_arrival()
        lease = replace(lease_of(bench, job.id), worker="worker-a")
        bench.service.fail(lease, EditTimeout("It ran too long.").failure)
        following = bench.submit(steps=1)
        until(lambda: bench.state(following.id) is JobState.RUNNING)
        until(lambda: bench.gate.let(1) or bench.state(following.id).final)
        assert bench.gate.arrivals < 50
    assert bench.state(job.id) is JobState.FAILED


def lease_of(bench: Deployment, job_id: str) -> Lease:
    """The lease as the worker that runs the job holds it."""
    job = bench.job(job_id)
    return Lease(job, "worker-a", job.attempt)


def test_an_image_waits_for_a_store_that_is_away(bench: Deployment) -> None:
    pipeline = GatedPipeline(bench.gate)
    job = bench.submit(steps=1)
    files, aside = bench.folder / "files", bench.folder / "aside"
    with bench.worker(pipeline):
        bench.gate.wait_for_arrival()
        files.rename(aside)
        files.touch()
        bench.gate.let(1)
        until(lambda: bench.service.ready() is not None)
        files.unlink()
        aside.rename(files)
        assert bench.finished(job.id).state is JobState.SUCCEEDED


def test_a_model_that_cannot_be_loaded_ends_the_worker_with_the_reason(bench: Deployment) -> None:
    class Unloadable(NullPipeline):
        @property
        def shared_step_tokens(self) -> int:  # type: ignore[override]
            raise UnsupportedParameter("This model cannot run here.")

    with bench.worker(Unloadable()) as worker:
        worker.join()
    assert isinstance(worker.error, UnsupportedParameter)


def test_the_devices_memory_limits_what_runs(bench: Deployment) -> None:
    class Small(NullPipeline):
        def state_budget_bytes(self) -> int:  # type: ignore[override]
            return 128 * 128 * 3

    large, fitting = (bench.submit(size=SizeRequest(width=side, height=side)) for side in (256, 128))
    with bench.worker(Small()):
        refused, done = bench.finished(large.id), bench.finished(fitting.id)
    assert refused.failure is not None
    assert refused.failure.code == "out_of_memory"
    assert done.state is JobState.SUCCEEDED


def test_edits_that_do_not_fit_together_run_one_after_the_other(bench: Deployment) -> None:
    size = SizeRequest(width=128, height=128)
    jobs = [bench.submit(size=size, steps=2).id for _ in range(2)]
    pipeline = GatedPipeline(bench.gate)
    with bench.worker(pipeline, settings=replace(HASTY, memory_bytes=128 * 128 * 3)):
        until(lambda: all(bench.state(job) is JobState.RUNNING for job in jobs))
        bench.gate.let(2)
        until(lambda: any(bench.state(job).final for job in jobs))
        assert {bench.state(job) for job in jobs} == {JobState.SUCCEEDED, JobState.RUNNING}
        bench.gate.let(2)
        assert [bench.finished(job).state for job in jobs] == [JobState.SUCCEEDED] * 2


def test_what_a_mask_protects_comes_back_untouched(bench: Deployment) -> None:
    class White(NullPipeline):
        def decode(self, state: DenoiseState) -> images.Pixels:
            return np.full_like(super().decode(state), 255)

    source = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    mask = np.zeros((64, 64, 3), dtype=np.uint8)
    mask[:, 32:] = 255
    job = bench.submit(
        images=(ImageInput(blob=bench.blobs.put(images.encode(source, "png"), "image/png", folder="uploads")),),
        mask=ImageInput(blob=bench.blobs.put(images.encode(mask, "png"), "image/png", folder="uploads"), field="mask"),
        size=SizeRequest(width=64, height=64),
    )
    with bench.worker(White()):
        done = bench.finished(job.id)
    assert done.output is not None, done.failure
    image = images.decode(bench.blobs.get(done.output.images[0].blob).data)
    assert (image[:, :32] == source[:, :32]).all()
    assert (image[:, 32:] == 255).all()


def test_a_mask_of_another_size_is_refused(bench: Deployment) -> None:
    small = bench.blobs.put(png(10, 10), "image/png", folder="uploads")
    job = bench.submit(mask=ImageInput(blob=small, field="mask"))
    with bench.worker():
        failed = bench.finished(job.id)
    assert failed.failure is not None
    assert (failed.failure.code, failed.failure.field) == ("invalid_image", "mask")


class Damaged(NullPipeline):
    """Ends as the real pipelines do when their weights are not finite."""

    def decode(self, state: DenoiseState) -> Pixels:
        raise InternalError("The checkpoint 'null' gave numbers that are no image.")


class Remarking(NullPipeline):
    """Has the same to say of every image."""

    def prepare(self, spec: EditSpec, images: Sequence[Pixels], inputs: None = None) -> DenoiseState:
        return replace(
            super().prepare(spec, images, inputs), notices=(Notice("prompt", "ignored", "It knows nothing."),)
        )


def test_damaged_weights_fail_the_job_by_name_and_cost_nothing(bench: Deployment) -> None:
    with bench.worker(Damaged()):
        failed = bench.finished(bench.submit().id)
    assert failed.state is JobState.FAILED
    assert failed.usage is None
    assert failed.failure is not None
    assert "'null'" in failed.failure.message


def test_what_the_model_has_to_say_is_reported_once_for_all_images(bench: Deployment) -> None:
    with bench.worker(Remarking()):
        done = bench.finished(bench.submit(num_images=3).id)
    assert done.output is not None
    assert [notice.detail for notice in done.output.notices].count("It knows nothing.") == 1
