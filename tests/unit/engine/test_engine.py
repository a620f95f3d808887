"""The loop with the null pipeline: reports, cancel, failures, memory, threads."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest

from retouch.edit import EditSpec
from retouch.engine.engine import Engine, StepReport
from retouch.engine.pipeline import DenoiseState
from retouch.engine.pipelines.null import NullPipeline
from retouch.errors import InternalError, OutOfMemory, TooLong
from retouch.images import Pixels

IMAGE = np.arange(96 * 64 * 3, dtype=np.uint8).reshape(64, 96, 3)


def spec(prompt: str = "make it grayscale", *, steps: int = 3, width: int = 96, height: int = 64) -> EditSpec:
    return EditSpec(prompt, width=width, height=height, seed=1, steps=steps)


def run(engine: Engine) -> list[StepReport]:
    reports = []
    while engine.busy:
        reports.append(engine.step())
    return reports


class Trouble(NullPipeline):
    """Fails where the prompt says so: `prepare!`, `denoise!` or `decode!`, by the error it was given."""

    shared_step_tokens = 0

    def __init__(self, error: Exception) -> None:
        self.error = error

    def prepare(self, spec: EditSpec, images: Sequence[Pixels], inputs: None = None) -> DenoiseState:
        self.fail(spec, "prepare!")
        return super().prepare(spec, images, inputs)

    def denoise(self, states: Sequence[DenoiseState]) -> None:
        self.fail(states[0].spec, "denoise!")
        super().denoise(states)

    def decode(self, state: DenoiseState) -> Pixels:
        self.fail(state.spec, "decode!")
        return super().decode(state)

    def fail(self, spec: EditSpec, where: str) -> None:
        if spec.prompt == where:
            raise self.error


def test_one_edit_comes_back_with_its_image_progress_and_timings() -> None:
    engine = Engine(NullPipeline())
    edit_id = engine.add(spec(steps=2), [IMAGE])
    reports = run(engine)
    assert [report.action for report in reports] == ["prepare", "denoise", "denoise", "decode"]
    assert [(p.edit_id, p.step, p.steps) for r in reports for p in r.progressed] == [(edit_id, 1, 2), (edit_id, 2, 2)]
    [finished] = reports[-1].finished
    np.testing.assert_array_equal(finished.pixels, IMAGE)
    assert set(finished.timings) == {"prepare", "denoise", "decode"}
    assert all(seconds > 0 for seconds in finished.timings.values())


def test_nothing_to_do_is_an_idle_report() -> None:
    engine = Engine(NullPipeline())
    assert not engine.busy
    assert engine.step() == StepReport("idle")


def test_the_caller_may_name_the_edit() -> None:
    engine = Engine(NullPipeline())
    assert engine.add(spec(), [IMAGE], edit_id="job-1/0") == "job-1/0"


@pytest.mark.parametrize("ticks", [0, 1, 2, 4])
def test_a_cancelled_edit_gets_no_further_tick(ticks: int) -> None:
    engine = Engine(NullPipeline())
    edit_id = engine.add(spec(steps=3), [IMAGE])
    for _ in range(ticks):
        engine.step()
    engine.cancel(edit_id)
    assert not engine.busy
    assert engine.step().action == "idle"


def test_cancelling_one_edit_leaves_the_other_alone() -> None:
    engine = Engine(NullPipeline())
    cancelled, kept = engine.add(spec(), [IMAGE]), engine.add(spec(), [IMAGE])
    engine.step()
    engine.cancel(cancelled)
    engine.cancel("no such edit")
    finished = [done.edit_id for report in run(engine) for done in report.finished]
    assert finished == [kept]


@pytest.mark.parametrize("where", ["prepare", "denoise", "decode"])
def test_an_edit_cancelled_during_its_own_tick_is_not_reported(where: str) -> None:
    class CancelledMeanwhile(Trouble):
        def fail(self, spec: EditSpec, place: str) -> None:
            if place == f"{where}!":
                engine.cancel("edit")

    engine = Engine(CancelledMeanwhile(RuntimeError()))
    engine.add(spec(), [IMAGE], edit_id="edit")
    reports = run(engine)
    assert not any(report.finished or report.failed for report in reports)
    assert not reports[-1].progressed
    assert not engine.busy


@pytest.mark.parametrize("where", ["prepare!", "denoise!", "decode!"])
def test_an_error_ends_its_own_edit_only(where: str, caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine(Trouble(RuntimeError("a secret path")))
    bad, good = engine.add(spec(where), [IMAGE]), engine.add(spec(), [IMAGE])
    reports = run(engine)
    [failed] = [failure for report in reports for failure in report.failed]
    assert failed.edit_id == bad
    assert isinstance(failed.error, InternalError)
    assert "secret" not in failed.error.message
    assert "secret" in caplog.text
    assert [done.edit_id for report in reports for done in report.finished] == [good]


def test_our_own_errors_pass_through_as_they_are() -> None:
    error = TooLong("prompt", 5000, 1024)
    engine = Engine(Trouble(error))
    engine.add(spec("prepare!"), [IMAGE])
    [failed] = engine.step().failed
    assert failed.error is error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["python", "cuda", "cpu"],
)
def test_running_out_of_memory_is_reported(error: Exception) -> None:
    engine = Engine(Trouble(error))
    engine.add(spec("denoise!"), [IMAGE])
    [failed] = [failure for report in run(engine) for failure in report.failed]
    assert isinstance(failed.error, OutOfMemory)


def test_an_edit_that_never_fits_is_refused_and_the_next_one_runs() -> None:
    engine = Engine(NullPipeline(), memory_bytes=96 * 64 * 3)
    large, small = engine.add(spec(width=1024, height=1024), [IMAGE]), engine.add(spec(), [IMAGE])
    reports = run(engine)
    [failed] = [failure for report in reports for failure in report.failed]
    assert failed.edit_id == large
    assert isinstance(failed.error, OutOfMemory)
    assert "1024 x 1024" in failed.error.message
    assert [done.edit_id for report in reports for done in report.finished] == [small]


class Alone(NullPipeline):
    """No two edits share a step, as in the real pipelines."""

    shared_step_tokens = 0


def test_sixty_small_edits_are_held_at_once_where_memory_allows_and_a_large_one_is_refused_alone() -> None:
    engine = Engine(Alone(), memory_bytes=60 * 96 * 64 * 3)
    edits = {engine.add(spec(steps=9), [IMAGE], place=(0,))}
    while engine.step().action != "denoise":
        pass
    for number in range(1, 60):  # each stands before those that run
        edits.add(engine.add(spec(steps=9), [IMAGE], place=(-number,)))
        assert [engine.step().action for _ in range(2)] == ["prepare", "denoise"]
    assert all(engine.begun(edit_id) for edit_id in edits)
    large = engine.add(spec(width=1024, height=1024), [IMAGE], place=(1,))
    reports = []
    while engine.busy:
        reports.append(engine.step())
    assert {done.edit_id for report in reports for done in report.finished} == edits
    assert [failed.edit_id for report in reports for failed in report.failed] == [large]


def test_a_preview_exists_after_the_first_step() -> None:
    engine = Engine(NullPipeline())
    edit_id = engine.add(spec(), [IMAGE])
    engine.step()
    assert engine.preview(edit_id) is None
    engine.step()
    preview = engine.preview(edit_id)
    assert preview is not None
    assert preview.shape == (8, 12, 3)
    assert engine.preview("no such edit") is None


def test_edits_may_be_added_and_cancelled_from_other_threads_while_it_runs() -> None:
    engine = Engine(NullPipeline())
    kept = []

    def arrive(offset: int) -> None:
        for index in range(20):
            edit_id = engine.add(spec(steps=5), [IMAGE], edit_id=f"{offset}-{index}")
            if index % 3 == 0:
                engine.cancel(edit_id)
            else:
                kept.append(edit_id)

    threads = [threading.Thread(target=arrive, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    finished: list[str] = []
    while engine.busy or any(thread.is_alive() for thread in threads):
        finished += [done.edit_id for done in engine.step().finished]
    assert sorted(finished) == sorted(kept)
