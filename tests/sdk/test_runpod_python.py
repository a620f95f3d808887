"""The vendor's own Python package, unmodified, sync and asyncio, against a live server."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
import runpod
from runpod import AsyncioEndpoint

from tests.harness import Deployment, gated_server
from tests.live_server import LiveServer, clean_environment, live_server
from tests.sdk.runpod_client import EDIT, an_input, pointed_at


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("runpod-python"), key=True) as running:
        yield running


@pytest.fixture
def endpoint(server: LiveServer) -> Iterator[runpod.Endpoint]:
    with pointed_at(server.url, server.key) as made:
        yield made


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[Deployment]:
    with gated_server(tmp_path) as running:
        yield running


def test_every_verb_of_the_package_led_here_by_its_variable(server: LiveServer):
    """Check 29: no line of the caller's program names this server."""
    program = f"""
        import os, runpod
        runpod.api_key = os.environ["RUNPOD_API_KEY"]
        endpoint = runpod.Endpoint({EDIT!r})
        wanted = {an_input(output_format="png")!r}
        flat, wrapped = endpoint.run_sync(wanted, timeout=60), endpoint.run_sync({{"input": wanted}})
        assert flat["image_url"].startswith({server.url!r}) and wrapped["result"] == wrapped["image_url"]
        assert endpoint.run_sync({{**wanted, "image": "nothing!"}}) is None
        job = endpoint.run({{"input": wanted, "policy": {{"executionTimeout": 60000}}}})
        output = job.output(timeout=60)
        assert job.status() == "COMPLETED" and output["cost"] > 0
        assert list(endpoint.run(wanted).stream())[-1]["image_url"]
        assert job.cancel() == {{"id": job.job_id, "status": "COMPLETED"}}
        assert endpoint.purge_queue() == {{"removed": 0, "status": "completed"}}
        assert endpoint.health()["workers"]["ready"] == 1
    """
    variables = {"RUNPOD_ENDPOINT_BASE_URL": f"{server.url}/v2", "RUNPOD_API_KEY": server.key or ""}
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(
        command, env=clean_environment(variables), capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_a_wrong_key_is_the_packages_own_error(server: LiveServer):
    """Check 29."""
    with pointed_at(server.url, "wrong") as endpoint, pytest.raises(RuntimeError, match="401 Unauthorized"):
        endpoint.run(an_input())


def test_a_cancelled_job_and_the_end_of_its_stream(gated: Deployment):
    """Check 29: the package's own loop would go on for ever without the 404."""
    with pointed_at(gated.url) as endpoint:
        job = endpoint.run(an_input())
        gated.running()
        assert job.status() == "IN_PROGRESS"
        assert job.cancel() == {"id": job.job_id, "status": "CANCELLED"}
        assert job.status() == "CANCELLED"
        with pytest.raises(Exception, match="404"):
            list(job.stream())


def test_a_job_that_takes_longer_than_its_caller_waits(gated: Deployment):
    """Check 29."""
    with pointed_at(gated.url) as endpoint:
        job = endpoint.run(an_input())
        assert job.output() is None
        with pytest.raises(TimeoutError):
            job.output(timeout=1)
        gated.gate.open()
        assert job.output(timeout=20)["image_url"]


async def test_every_verb_of_the_asyncio_client(server: LiveServer):
    """Check 30."""
    with pointed_at(server.url, server.key):
        async with aiohttp.ClientSession() as session:
            endpoint = AsyncioEndpoint(EDIT, session, server.key)
            for given in (an_input(), {"input": an_input()}):
                job = await endpoint.run(given)
                output = await job.output(timeout=30)
                assert await job.status() == "COMPLETED"
                assert output["image_url"].startswith(server.url)
            assert [chunk async for chunk in job.stream()][-1] == output
            assert (await job.cancel())["status"] == "COMPLETED"
            assert (await endpoint.health())["jobs"]["completed"] >= 2
            assert await endpoint.purge_queue() == {"removed": 0, "status": "completed"}


async def test_the_asyncio_client_names_its_job_in_the_log(server: LiveServer):
    """Check 30: the id that it sends with each call comes back."""
    with pointed_at(server.url, server.key):
        async with aiohttp.ClientSession() as session:
            job = await AsyncioEndpoint(EDIT, session, server.key).run(an_input())
            await job.output(timeout=30)
            link = f"{server.url}/v2/{EDIT}/status/{job.job_id}"
            async with session.get(link, headers=job.headers) as response:
                assert response.headers["x-request-id"] == job.headers["X-Request-ID"] == job.job_id
