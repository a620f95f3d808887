"""One service and one device with two models: each id's jobs reach its own, and one that fails leaves the other be."""

from __future__ import annotations

import contextlib
import json
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from retouch.catalog import checkpoint_named
from retouch.cli.worker import run_together
from retouch.engine.pipeline import Pipeline
from retouch.engine.pipelines.null import NullPipeline
from retouch.errors import OutOfMemory, RetouchError, Unavailable
from retouch.jobs.job import JobState
from retouch.worker.worker import SharedDevice
from tests.harness import Deployment, GatedPipeline
from tests.waiting import until

NULL = checkpoint_named("null")
PLUS = replace(NULL, name="qwen-image-edit-2511")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Deployment]:
    with Deployment(tmp_path, model=NULL, others=[PLUS], uploads=True) as deployment:
        yield deployment


def refuses(reason: str) -> Pipeline:
    raise OutOfMemory(reason)


@contextlib.contextmanager
def models(house: Deployment, first: object, plus: object, *, swaps: bool = False) -> Iterator[list[BaseException]]:
    """Workers of both, each loading what the function gives; yields what they end with."""
    shared, stop, ends = SharedDevice(2, swaps=swaps), threading.Event(), []
    workers = [
        house.new_worker(load, name=f"w-{checkpoint.name}", checkpoint=checkpoint, shared=shared)
        for checkpoint, load in ((NULL, first), (PLUS, plus))
    ]

    def run() -> None:
        try:
            run_together(workers, stop)
        except RetouchError as error:
            ends.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield ends
    finally:
        stop.set()
        house.gate.open()
        thread.join(20)


@pytest.mark.parametrize("swaps", [False, True])
def test_each_models_jobs_are_run_by_it(house: Deployment, swaps: bool):
    jobs = [house.submit(model=name) for name in ("qwen-image-edit", "qwen-image-edit-plus") for _ in range(3)]
    with models(house, NullPipeline, NullPipeline, swaps=swaps):
        done = [house.finished(job.id) for job in jobs]
        until(lambda: house.service.ready() is None)
    assert [job.state for job in done] == [JobState.SUCCEEDED] * 6
    assert [job.output.applied["checkpoint"] for job in done if job.output] == ["null"] * 3 + [PLUS.name] * 3


def test_a_long_edit_of_one_model_does_not_hold_up_the_other(house: Deployment):
    long = house.submit(model="qwen-image-edit", steps=100)
    with models(house, lambda: GatedPipeline(house.gate), NullPipeline):
        house.gate.wait_for_arrival()
        quick = house.submit(model="qwen-image-edit-plus", steps=1)

        def ended() -> bool:
            house.gate.let()  # one step more of the long one
            return house.state(quick.id).final

        until(ended)
        assert house.state(quick.id) is JobState.SUCCEEDED
        assert house.state(long.id) is JobState.RUNNING


def test_a_model_that_does_not_fit_is_one_sentence_and_the_other_runs(house: Deployment):
    with models(house, NullPipeline, lambda: refuses("It needs 26.7 GB.")), house.server() as url:
        until(lambda: house.service.ready() is None and house.service.models()[PLUS.name] == "It needs 26.7 GB.")
        with urllib.request.urlopen(f"{url}/ready") as answer:
            statistics = json.load(answer)
        assert statistics == {"status": "ready", "models": {"null": "ready", PLUS.name: "It needs 26.7 GB."}}
        with pytest.raises(Unavailable, match="'qwen-image-edit-2511' is not served here now"):
            house.submit(model="qwen-image-edit-plus")
        assert house.finished(house.submit(model="qwen-image-edit").id).state is JobState.SUCCEEDED
        with urllib.request.urlopen(f"{url}/metrics") as answer:
            page = answer.read().decode()
    assert 'retouch_route{model="fal-ai/qwen-image-edit-plus",queue="qwen-image-edit-2511"} 1.0' in page
    assert 'retouch_worker_up{device="auto",queue="qwen-image-edit-2511",state="failed"' in page


def test_where_no_model_fits_the_worker_ends_with_every_reason(house: Deployment):
    with models(house, lambda: refuses("The first is large."), lambda: refuses("So is the second.")) as ends:
        until(lambda: ends)
    assert isinstance(ends[0], RetouchError)
    assert sorted(f"{part.strip()}." for part in ends[0].message.split(".") if part) == [
        "So is the second.",
        "The first is large.",
    ]
