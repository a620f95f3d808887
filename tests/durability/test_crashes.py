"""What is left when a process dies in the middle of an edit: nothing lost, nothing done or billed twice.

Every test runs on both databases. Processes are real and die by SIGKILL; a gate (see `gated_worker.py`) holds
the worker at the station where it is to die, so no test depends on how fast the machine is.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import func, select

from retouch import images
from retouch.accounts.tables import usage_entry
from retouch.jobs.job import Job, JobState
from retouch.worker.settings import HeartbeatSettings, WorkerSettings
from tests.durability.gated_worker import STATIONS
from tests.harness import ANNE, Deployment, FileGate, GatedPipeline, png
from tests.live_server import LiveServer, clean_environment, live_server
from tests.waiting import until

SHORT_LEASE_S = 0.6
LONG_LEASE_S = 30.0

STEADY = WorkerSettings(poll_s=0.2, heartbeat=HeartbeatSettings(lease_s=10.0))


class WorkerProcess:
    """A gated worker and the files it is steered with."""

    def __init__(self, bench: Deployment, name: str, station: str, lease_s: float) -> None:
        self.gate = FileGate(bench.folder, name)
        self._log = bench.folder / f"{name}.log"
        script = (sys.executable, "-m", "tests.durability.gated_worker")
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                (*script, bench.database_url, str(bench.folder), name, station, str(lease_s)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=clean_environment(),
                cwd=Path(__file__).parents[2],
            )

    def wait_at_station(self) -> None:
        until(lambda: self.gate.reached() or self.process.poll() is not None)
        assert self.process.poll() is None, self.log()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def log(self) -> str:
        return self._log.read_text(errors="replace")


@contextmanager
def gated_worker(
    bench: Deployment, station: str, *, name: str = "doomed", lease_s: float = SHORT_LEASE_S
) -> Iterator[WorkerProcess]:
    worker = WorkerProcess(bench, name, station, lease_s)
    try:
        yield worker
    finally:
        worker.process.send_signal(signal.SIGCONT)
        worker.kill()


def finished_by_another(bench: Deployment, *job_ids: str) -> list[Job]:
    """The jobs once they have ended, with a healthy worker and the housekeeping at work."""

    def all_over() -> bool:
        bench.service.sweep()
        return all(bench.state(job_id).final for job_id in job_ids)

    with bench.worker(name="healthy", settings=STEADY):
        until(all_over)
    return [bench.job(job_id) for job_id in job_ids]


def bills(bench: Deployment) -> Counter[str]:
    """How often each job is in the ledger."""
    query = select(usage_entry.c.job_id, func.count()).group_by(usage_entry.c.job_id)
    with bench.database.read() as connection:
        return Counter({row[0]: row[1] for row in connection.execute(query)})


def times_finished(bench: Deployment, job_id: str) -> int:
    events = bench.service.events(job_id)
    return sum(event.kind == "state" and event.data["state"] == "succeeded" for event in events)


def check_done_once(bench: Deployment, job: Job) -> None:
    assert job.state is JobState.SUCCEEDED, job.failure
    assert times_finished(bench, job.id) == 1
    assert bills(bench)[job.id] == 1
    assert job.output is not None
    for image in job.output.images:
        assert images.decode(bench.blobs.get(image.blob).data).shape == (image.height, image.width, 3)


@pytest.mark.parametrize("station", STATIONS)
def test_a_worker_killed_at_any_station_costs_an_attempt_and_nothing_else(bench: Deployment, station: str) -> None:
    job = bench.submit(steps=2)
    with gated_worker(bench, station) as worker:
        worker.wait_at_station()
        worker.kill()
    [done] = finished_by_another(bench, job.id)
    check_done_once(bench, done)
    assert done.attempt == (1 if station == "load" else 2)


def test_an_old_worker_that_comes_back_changes_nothing(bench: Deployment) -> None:
    job = bench.submit(steps=2)
    with gated_worker(bench, "denoise") as worker:
        worker.wait_at_station()
        worker.process.send_signal(signal.SIGSTOP)
        [done] = finished_by_another(bench, job.id)
        stored = sorted(bench.blobs.keys("outputs"))
        worker.gate.open()
        worker.process.send_signal(signal.SIGCONT)
        until(lambda: "lease lost" in worker.log())
        # What it may have stored meanwhile it deletes itself, before the end of this block kills it.
        until(lambda: sorted(bench.blobs.keys("outputs")) == stored)
    check_done_once(bench, done)
    assert bench.job(job.id) == done


def test_a_worker_that_wakes_up_with_a_stored_image_may_not_finish(bench: Deployment) -> None:
    job = bench.submit(steps=2)
    with gated_worker(bench, "uploaded") as worker:
        worker.wait_at_station()
        worker.process.send_signal(signal.SIGSTOP)
        [done] = finished_by_another(bench, job.id)
        worker.gate.open()
        worker.process.send_signal(signal.SIGCONT)
        until(lambda: "lease lost" in worker.log())
        until(lambda: len(list(bench.blobs.keys("outputs"))) == 1)
    check_done_once(bench, done)
    assert bench.job(job.id) == done


def test_a_stop_inside_a_step_gives_the_lease_back_without_an_attempt(bench: Deployment) -> None:
    jobs = [bench.submit(steps=2) for _ in range(2)]
    with gated_worker(bench, "denoise", lease_s=LONG_LEASE_S) as worker:
        worker.wait_at_station()
        until(lambda: all(bench.state(job.id) is JobState.RUNNING for job in jobs))
        worker.process.terminate()
        assert worker.process.wait(8) == 0
        assert [(bench.job(job.id).state, bench.job(job.id).attempt) for job in jobs] == [(JobState.QUEUED, 0)] * 2
    for done in finished_by_another(bench, *(job.id for job in jobs)):
        check_done_once(bench, done)
        assert done.attempt == 1


def test_a_cancel_of_a_running_edit_frees_the_device_within_one_step(bench: Deployment) -> None:
    pipeline = GatedPipeline(bench.gate)
    job = bench.submit(steps=100)
    with bench.worker(pipeline, settings=STEADY):
        bench.gate.wait_for_arrival()
        bench.service.cancel(ANNE, job.id)
        cancelled = bench.finished(job.id)
        bench.gate.let(1)
        following = bench.submit(steps=1)
        bench.gate.wait_for_arrival()
        bench.gate.let(1)
        bench.finished(following.id)
        assert bench.gate.arrivals == 2
    assert cancelled.state is JobState.CANCELLED
    assert bills(bench)[job.id] == 0


def test_a_server_killed_with_ten_jobs_in_flight_loses_none(bench: Deployment) -> None:
    arguments = ("--workers", "0", "--database", bench.database_url)
    with gated_worker(bench, "denoise", lease_s=LONG_LEASE_S) as worker:
        with live_server(bench.folder, ready=False, arguments=arguments) as server:
            job_ids = [submit_by_http(server, number) for number in range(10)]
            worker.wait_at_station()
            until(lambda: sum(bench.state(job_id) is JobState.RUNNING for job_id in job_ids) >= 4)
            server.kill()
        worker.gate.open()
        with live_server(bench.folder, arguments=arguments) as server:
            until(lambda: all(bench.state(job_id).final for job_id in job_ids))
            answers = [result_by_http(server, job_id) for job_id in job_ids]
    for job_id in job_ids:
        check_done_once(bench, bench.job(job_id))
    assert [answer["seed"] for answer in answers] == list(range(10))
    assert sum(bills(bench).values()) == 10


def test_workers_of_a_killed_server_stop_and_its_jobs_are_done_after_a_restart(bench: Deployment) -> None:
    arguments = ("--database", bench.database_url)
    with live_server(bench.folder, arguments=arguments) as server:
        job_ids = [submit_by_http(server, number) for number in range(10)]
        server.kill()
    with live_server(bench.folder, arguments=arguments) as server:
        until(lambda: all(bench.state(job_id).final for job_id in job_ids))
        assert [result_by_http(server, job_id)["seed"] for job_id in job_ids] == list(range(10))
    for job_id in job_ids:
        check_done_once(bench, bench.job(job_id))
    assert sum(bills(bench).values()) == 10


def submit_by_http(server: LiveServer, seed: int) -> str:
    body = {"prompt": "make it red", "image_url": images.data_uri(png(), "image/png"), "seed": seed}
    answer = by_http(server, "/fal/queue/fal-ai/qwen-image-edit", body)
    return str(answer["request_id"])


def result_by_http(server: LiveServer, job_id: str) -> dict[str, object]:
    return by_http(server, f"/fal/queue/fal-ai/qwen-image-edit/requests/{job_id}", None)


def by_http(server: LiveServer, path: str, body: object | None) -> dict[str, object]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        content = json.loads(answer.read())
    assert isinstance(content, dict)
    return content
