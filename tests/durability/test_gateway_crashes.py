"""What is left when a gateway dies in the middle of a hosted edit: every job ends, and none is submitted twice.

Gateways are real processes that die by SIGKILL; the providers are stubs in the test's own process, which count. Every
test runs on both databases.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from retouch.jobs.attempts import AttemptState
from retouch.jobs.job import JobState
from retouch.upstreams.routes import GatewaySettings
from tests.harness import FileGate
from tests.live_server import clean_environment
from tests.upstreams.gateway_world import GatewayWorld, code_of
from tests.upstreams.stubs.server import PRICE_MICROUSD, Silence
from tests.waiting import until

SHORT_LEASE_S = 0.6
SETTINGS = GatewaySettings(deadline_s=8.0)


@pytest.fixture(params=["fal", "openai"])
def world(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> Iterator[GatewayWorld]:
    """One provider that names its jobs, or one whose answer is the image."""
    world = GatewayWorld(tmp_path, database_url, request.param, settings=SETTINGS)
    yield world
    world.close()


@contextmanager
def gateway_process(world: GatewayWorld, name: str, station: str = "-") -> Iterator[subprocess.Popen[bytes]]:
    log = world.folder / f"{name}.log"
    stubs = [f"{each.kind}={each.stub.base_url}" for each in world.providers.values()]
    script = (sys.executable, "-m", "tests.upstreams.gateway_process", world.database_url, str(world.folder))
    with log.open("wb") as output:
        process = subprocess.Popen(
            (*script, name, station, str(SHORT_LEASE_S), *stubs),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=clean_environment(),
        )
    try:
        yield process
    except BaseException:
        sys.stderr.write(log.read_text())
        raise
    finally:
        process.kill()
        process.wait()


def kind_of(world: GatewayWorld) -> str:
    return next(iter(world.providers))


def rescue(world: GatewayWorld, job_id: str) -> None:
    """Let the dead gateway's lease run out."""

    def queued() -> bool:
        world.service.sweep()
        return world.state(job_id) is JobState.QUEUED

    until(queued)


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_killed_before_the_first_byte_the_edit_is_sent_by_the_next_gateway(world: GatewayWorld) -> None:
    job = world.edit()
    with gateway_process(world, "first", "planned") as process:
        until(FileGate(world.folder, "first").reached)
        kill(process)
    assert world.states(job.id) == []
    rescue(world, job.id)
    with world.gateway():
        done = world.finished(job.id)
    assert done.state is JobState.SUCCEEDED
    assert world.submits(kind_of(world)) == 1
    assert world.bill() == PRICE_MICROUSD


def test_killed_between_sending_and_the_answer_it_is_looked_up_and_never_sent_again(world: GatewayWorld) -> None:
    world.stub(kind_of(world)).script("submit", Silence())
    job = world.edit()
    with gateway_process(world, "first") as process:
        until(lambda: world.submits(kind_of(world)) == 1)
        kill(process)
    assert world.states(job.id) == [AttemptState.SENDING]
    rescue(world, job.id)
    with world.gateway():
        done = world.finished(job.id)
    assert world.submits(kind_of(world)) == 1
    (attempt,) = world.attempts(job.id)
    if kind_of(world) == "fal":  # its history lists it
        assert done.state is JobState.SUCCEEDED
        assert (attempt.state, attempt.charge_microusd) == (AttemptState.DONE, PRICE_MICROUSD)
    else:
        assert code_of(done) == "upstream_outcome_unknown"
        assert (attempt.state, attempt.charge_microusd) == (AttemptState.UNKNOWN, 0)


def test_images_without_a_seed_are_found_after_a_death_by_the_seed_that_was_drawn(
    database_url: str, tmp_path: Path
) -> None:
    world = GatewayWorld(tmp_path, database_url, "fal", settings=SETTINGS)
    stub = world.stub("fal")
    stub.script("submit", Silence())
    job = world.edit(num_images=2, seed=None)
    with gateway_process(world, "first") as process:
        until(lambda: world.submits("fal") == 1)
        kill(process)
    rescue(world, job.id)
    with world.gateway():
        done = world.finished(job.id)
    (attempt,) = world.attempts(job.id)
    assert world.submits("fal") == 1
    assert (attempt.state, attempt.images, attempt.seed) == (AttemptState.DONE, 2, stub.at("submit")[0].json["seed"])
    assert done.output is not None
    assert [image.seed for image in done.output.images] == [attempt.seed, attempt.seed + 1]
    assert world.bill() == 2 * PRICE_MICROUSD
    world.close()


def test_killed_while_the_provider_works_the_edit_is_collected_by_the_next_gateway(
    database_url: str, tmp_path: Path
) -> None:
    world = GatewayWorld(tmp_path, database_url, "fal", settings=SETTINGS)
    stub = world.stub("fal")
    stub.plan = ("running",)
    job = world.edit()
    with gateway_process(world, "first") as process:
        until(lambda: world.states(job.id) == [AttemptState.ACCEPTED])
        kill(process)
    rescue(world, job.id)
    for each in stub.jobs.values():
        each.plan.append("done")
    with world.gateway():
        done = world.finished(job.id)
    assert done.state is JobState.SUCCEEDED
    assert stub.at("submit") == stub.at("submit")[:1]
    assert world.bill() == PRICE_MICROUSD == world.attempts(job.id)[0].charge_microusd
    world.close()


def test_killed_while_it_downloads_the_image_is_fetched_again_and_not_made_again(
    database_url: str, tmp_path: Path
) -> None:
    world = GatewayWorld(tmp_path, database_url, "fal", settings=SETTINGS)
    stub = world.stub("fal")
    stub.script("download", Silence())
    job = world.edit()
    with gateway_process(world, "first") as process:
        until(lambda: stub.at("download"))
        kill(process)
    assert world.states(job.id) == [AttemptState.DONE]
    rescue(world, job.id)
    with world.gateway():
        done = world.finished(job.id)
    assert done.state is JobState.SUCCEEDED
    assert len(stub.at("submit")) == 1
    assert world.bill() == PRICE_MICROUSD
    world.close()


def test_two_gateways_share_the_jobs_and_one_takes_over_those_of_the_other(database_url: str, tmp_path: Path) -> None:
    world = GatewayWorld(tmp_path, database_url, "fal", settings=GatewaySettings(deadline_s=30.0))
    stub = world.stub("fal")
    stub.plan = ("running",)
    jobs = [world.edit(seed=seed) for seed in range(12)]
    with gateway_process(world, "first") as first, gateway_process(world, "second"):
        until(lambda: all(world.states(job.id) == [AttemptState.ACCEPTED] for job in jobs))
        holders = {world.job(job.id).worker for job in jobs}
        kill(first)

        def all_at_the_second() -> bool:
            world.service.sweep()
            return {world.job(job.id).worker for job in jobs} == {"second"}

        until(all_at_the_second)
        for each in stub.jobs.values():
            each.plan.append("done")
        done = [world.finished(job.id) for job in jobs]
    assert holders <= {"first", "second"}
    assert {job.state for job in done} == {JobState.SUCCEEDED}
    assert len(stub.at("submit")) == 12
    assert world.bill() == 12 * PRICE_MICROUSD
    world.close()
