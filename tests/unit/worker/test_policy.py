"""The loaded model's own language model, asked from staging threads while a real engine drives it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from retouch.engine.engine import Engine
from retouch.engine.pipeline import Speaks
from retouch.engine.pipelines import load_pipeline
from retouch.engine.pipelines.null import NullPipeline
from retouch.engine.pipelines.text_encoder import LanguageHeads, Speaker
from retouch.engine.prompt_safety import PromptChecker, ResidentClassifier
from retouch.engine.rewrite import RULES, PromptExpander
from retouch.errors import InvalidRequest, Unavailable
from retouch.jobs.job import JobState
from retouch.worker.policy import JobPolicy, ResidentRewriter, ask_resident, wait_for
from tests import tiny_checkpoints
from tests.harness import Deployment

PHOTO = tiny_checkpoints.coloured_blocks(1, 64, 64)


def never() -> bool:
    return False


@contextlib.contextmanager
def driven(engine: Engine) -> Iterator[Engine]:
    """The engine with a thread that steps it."""
    stop = threading.Event()

    def drive() -> None:
        while not stop.is_set():
            if engine.wait_for_work(0.05):
                engine.step()

    thread = threading.Thread(target=drive)
    thread.start()
    try:
        yield engine
    finally:
        stop.set()
        thread.join(20)


@pytest.fixture(scope="module")
def pipeline():
    folder = tiny_checkpoints.shared("plus-2511")
    row = tiny_checkpoints.checkpoint(folder)
    return load_pipeline(row, device="cpu", folder=folder, speaks=Speaks(rewrites=True))


def endless(turns: list[int]) -> Generator[None, None, str]:
    while True:
        turns.append(len(turns))
        yield


def test_a_resident_rewriter_answers_from_another_thread(pipeline) -> None:
    with driven(Engine(pipeline)) as engine:
        rewriter = ResidentRewriter(engine, pipeline.language_model, RULES)
        answer = rewriter.answer("make it red", [PHOTO], never)
        assert answer.startswith('{"Rewritten": "')
        assert rewriter.answer("make it red", [PHOTO], never) == answer
        with pytest.raises(InvalidRequest):
            rewriter.answer("a <|im_end|> b", [PHOTO], never)


def test_what_goes_wrong_in_it_leaves_the_callers_words(pipeline) -> None:
    class Broken:
        def rewrite(self, prompt, images, rules):
            raise RuntimeError("broken")
            yield

    with driven(Engine(pipeline)) as engine:
        result = PromptExpander(ResidentRewriter(engine, Broken(), RULES)).expand("red", [PHOTO], lambda prompt: None)  # type: ignore[arg-type]
    assert result.reason == "the resident rewriter failed"


def test_a_resident_answer_that_is_not_needed_is_stopped_within_a_word() -> None:
    turns: list[int] = []
    with driven(Engine(NullPipeline())) as engine:
        with pytest.raises(Unavailable, match="stopped"):
            wait_for(engine.interleave(endless(turns)), lambda: bool(turns))
        done = engine.interleave(iter_once())
        assert done.result(20) == "next"
    assert not engine.busy


def iter_once() -> Generator[None, None, str]:
    yield
    return "next"


def test_the_resident_model_judges_a_prompt(pipeline) -> None:
    rows = pipeline.language_model._head[[3, 50, 8, 100, 7, 200]]
    model = Speaker(pipeline.text_encoder, pipeline._vision_copies, LanguageHeads(answers=rows))
    with driven(Engine(pipeline)) as engine:
        ask = ask_resident(engine, model)
        score = ask("make it red")
        assert 0 <= score <= 1
        assert ask("make it red") == score
        checker = PromptChecker(ResidentClassifier(ask, threshold=score))
        assert checker.check("make it red").flagged
        with pytest.raises(InvalidRequest):
            checker.check("a <|im_end|> b")


def test_a_worker_rewrites_with_its_own_model_and_finishes_whatever_that_says(tmp_path: Path, pipeline) -> None:
    bench = Deployment(tmp_path, model=pipeline.checkpoint, uploads=True)
    job = bench.submit(enable_prompt_expansion=True, prompt="make it red")

    def rules(engine: Engine, loaded: object) -> JobPolicy:
        return JobPolicy(expander=PromptExpander(ResidentRewriter(engine, pipeline.language_model, RULES)))

    with bench.worker(pipeline, policy=rules):
        finished = bench.finished(job.id)
    bench.close()
    assert finished.state is JobState.SUCCEEDED
    assert finished.output is not None
    assert finished.output.notices[-1].parameter == "enable_prompt_expansion"
