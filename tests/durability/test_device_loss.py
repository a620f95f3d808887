"""A device that fails for good ends its worker, never the queue: real worker processes under the real supervisor."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from retouch.jobs.job import JobState
from retouch.server.supervisor import Supervisor
from tests.durability.test_crashes import bills, check_done_once
from tests.harness import Deployment
from tests.live_server import clean_environment
from tests.waiting import until


@contextmanager
def supervised(bench: Deployment) -> Iterator[list[str]]:
    """A poisonable worker that is started again whenever it ends; yields whether one called itself hopeless."""
    fatal: list[str] = []
    variables = {"RETOUCH_DATA": str(bench.folder), "RETOUCH_DATABASE": bench.database_url, "RETOUCH_MODEL": "null"}
    command = (sys.executable, "-m", "tests.durability.poisoned_worker", "worker", "--attached")
    supervisor = Supervisor(command, clean_environment(variables), 1, fatal=lambda: fatal.append("fatal"))
    supervisor.start()
    try:
        yield fatal
    finally:
        supervisor.stop()


def test_a_lost_device_ends_its_worker_and_the_queue_goes_on(bench: Deployment) -> None:
    """The job at fault fails by name at its second time; one that waited is done by the next worker."""
    poison = bench.submit(prompt="poison the device", steps=3)
    harmless = [bench.submit(prompt="make it grey", steps=3, seed=seed) for seed in range(8)]
    jobs = [poison, *harmless]
    with supervised(bench) as fatal:
        until(lambda: all(bench.state(job.id).final for job in jobs), within_s=120)
    lost = bench.job(poison.id)
    assert lost.state is JobState.FAILED
    assert lost.failure is not None
    assert lost.failure.code == "worker_lost"
    assert lost.failure.message == (
        "The worker was lost on each of 2 attempts, the last time by a failure of its device."
    )
    assert lost.attempt == 2
    assert bills(bench)[poison.id] == 0
    done = [bench.job(job.id) for job in harmless]
    for job in done:
        check_done_once(bench, job)
    assert done[-1].attempt == 1, "it waited each time the device was lost"
    assert not fatal
