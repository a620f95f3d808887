"""Answers in words between denoise steps: they change no image, end when cancelled, and fail alone."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import CancelledError

import pytest

from retouch.catalog import checkpoint_named
from retouch.edit import EditSpec
from retouch.engine.engine import Engine
from retouch.engine.pipeline import Speaks
from retouch.engine.pipelines import load_pipeline
from retouch.engine.pipelines.null import NullPipeline
from retouch.engine.rewrite import RULES
from retouch.errors import InvalidRequest, UnknownModel, UnsupportedParameter
from tests import tiny_checkpoints

PHOTO = tiny_checkpoints.coloured_blocks(5, 96, 64)


def counting(turns: int, seen: list[int]) -> Generator[None, None, str]:
    for index in range(turns):
        seen.append(index)
        yield
    return "spoken"


def spec(prompt: str = "make it red") -> EditSpec:
    return EditSpec(prompt=prompt, width=64, height=64, seed=7, steps=3, guidance_scale=4.0)


def test_an_answer_arrives_without_any_edit() -> None:
    engine = Engine(NullPipeline())
    answer = engine.interleave(counting(5, []))
    assert engine.busy
    assert engine.wait_for_work(0)
    while engine.busy:
        assert engine.step().action == "speak"
    assert answer.result(0) == "spoken"
    assert engine.step().action == "idle"


def test_a_cancelled_answer_takes_no_further_turn() -> None:
    seen: list[int] = []
    engine = Engine(NullPipeline())
    words = counting(10**9, seen)
    answer = engine.interleave(words)
    engine.step()
    assert answer.cancel()
    before = len(seen)
    engine.step()
    assert len(seen) == before
    assert not engine.busy
    with pytest.raises(CancelledError):
        answer.result(0)
    with pytest.raises(StopIteration):
        next(words)


def test_an_answer_that_fails_does_so_for_the_one_who_waits() -> None:
    def failing() -> Generator[None, None, str]:
        yield
        raise InvalidRequest("too long", field="prompt")

    engine = Engine(NullPipeline())
    answer = engine.interleave(failing())
    edit = engine.add(EditSpec("red", 32, 32, seed=1, steps=2), [PHOTO])
    finished = []
    while engine.busy:
        finished += engine.step().finished
    assert [each.edit_id for each in finished] == [edit]
    with pytest.raises(InvalidRequest):
        answer.result(0)


def test_two_answers_take_turns() -> None:
    first: list[int] = []
    second: list[int] = []
    engine = Engine(NullPipeline())
    answers = [engine.interleave(counting(10**9, first)), engine.interleave(counting(10**9, second))]
    for _ in range(4):
        engine.step()
    assert first
    assert second
    assert all(answer.cancel() for answer in answers)


def test_rewriting_between_the_steps_of_edits_changes_no_byte_of_either() -> None:
    folder = tiny_checkpoints.shared("plus-2511")
    row = tiny_checkpoints.checkpoint(folder)
    speaks = Speaks(rewrites=True)

    def load() -> Engine:
        return Engine(load_pipeline(row, device="cpu", folder=folder, speaks=speaks))

    def run(engine: Engine) -> tuple[list[bytes], list[str]]:
        found, actions = {}, []
        ids = [engine.add(spec(prompt), [PHOTO]) for prompt in ("make it red", "make it blue")]
        while engine.busy:
            report = engine.step()
            actions.append(report.action)
            found.update({each.edit_id: each.pixels.tobytes() for each in report.finished})
        return [found[edit_id] for edit_id in ids], actions

    def words(engine: Engine) -> Generator[None, None, str]:
        model = engine._pipeline.language_model
        assert model is not None
        return model.rewrite("make it red", [PHOTO], RULES)

    quiet = load()
    images, _ = run(quiet)
    alone = quiet.interleave(words(quiet))
    while quiet.busy:
        quiet.step()

    busy = load()
    beside = busy.interleave(words(busy))
    images_beside, actions = run(busy)
    assert images_beside == images
    assert beside.result(0) == alone.result(0)
    assert "speak" in actions[actions.index("denoise") :]


def test_the_head_is_kept_only_when_it_is_asked_for() -> None:
    folder = tiny_checkpoints.shared("plus-2511")
    row = tiny_checkpoints.checkpoint(folder)
    silent = load_pipeline(row, device="cpu", folder=folder)
    assert silent.language_model is None
    speaking = load_pipeline(row, device="cpu", folder=folder, speaks=Speaks(rewrites=True)).language_model
    assert speaking is not None
    assert speaking._head is not None  # type: ignore[attr-defined]
    assert speaking._answers is None  # type: ignore[attr-defined]


def test_a_model_without_single_tokens_for_yes_and_no_is_refused_by_name() -> None:
    folder = tiny_checkpoints.shared("plus-2511")
    with pytest.raises(UnsupportedParameter, match="--prompt-checker resident needs a model for which 'Yes'"):
        load_pipeline(tiny_checkpoints.checkpoint(folder), device="cpu", folder=folder, speaks=Speaks(judges=True))


def test_a_checkpoint_without_a_head_cannot_speak(tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny_checkpoints.build(tmp_path)
    weights = folder / "text_encoder" / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(weights).items() if not name.startswith("lm_head.")}
    save_file(kept, weights, metadata={"format": "pt"})
    row = tiny_checkpoints.checkpoint(folder)
    load_pipeline(row, device="cpu", folder=folder)
    with pytest.raises(UnknownModel, match="weights are missing, such as lm_head"):
        load_pipeline(row, device="cpu", folder=folder, speaks=Speaks(rewrites=True))


def test_the_null_model_cannot_speak() -> None:
    with pytest.raises(UnsupportedParameter, match="no language model"):
        load_pipeline(checkpoint_named("null"), speaks=Speaks(rewrites=True))


def test_a_word_longer_than_the_device_gives_is_continued_in_the_next_turn() -> None:
    seen: list[int] = []
    engine = Engine(NullPipeline())
    engine.interleave(counting(3, seen))
    engine._step_s = 0.0
    assert [engine.step().action for _ in range(4)] == ["speak"] * 4
    assert seen == [0, 1, 2]
    assert not engine.busy
