"""The RunPod face under load: many callers on the line, and a device that must be free at once."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from retouch.accounts.keys import ANONYMOUS
from retouch.jobs.job import JobState
from tests.harness import Deployment, gated_server
from tests.live_server import LiveServer, live_server
from tests.sdk.runpod_client import EDIT, call, submit
from tests.waiting import until

CALLERS = 200
MOST_MB = 20


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    data = tmp_path_factory.mktemp("runpod-held")
    with live_server(data, ready=False, arguments=("--workers", "0")) as running:
        yield running


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[Deployment]:
    with gated_server(tmp_path) as running:
        yield running


def resident_mb(pid: int) -> float:
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    assert match is not None
    return int(match[1]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_callers_who_wait_cost_little_memory_and_no_other_callers_time(idle: LiveServer):
    """Check 24; how long the answers take is measured by benchmarks/held_connections.py."""
    job = submit(idle)
    with contextlib.ExitStack() as stack, httpx.Client(base_url=idle.url, timeout=3) as client:
        for _ in range(20):
            client.get("/health")
        before = resident_mb(idle.process.pid)
        held = []
        for _ in range(CALLERS):
            held.append(stack.enter_context(socket.create_connection(("127.0.0.1", idle.port))))
            request = f"GET /v2/{EDIT}/status-sync/{job}?wait=300000 HTTP/1.1\r\nHost: 127.0.0.1:{idle.port}\r\n\r\n"
            held[-1].sendall(request.encode())
        for _ in range(20):
            assert client.get("/health").status_code == 200
            assert client.get(f"/v2/{EDIT}/status/{job}").json()["status"] == "IN_QUEUE"
        assert resident_mb(idle.process.pid) - before < MOST_MB
        assert call(idle, "POST", f"cancel/{job}").json()["status"] == "CANCELLED"
        for connection in held:
            connection.settimeout(20)
            answer = b""
            while not answer.endswith(b"}"):  # head and body may come one after the other
                answer += connection.recv(65536)
            assert b'"status":"CANCELLED"' in answer


def cancel(gated: Deployment, job: str) -> None:
    assert call(gated.url, "POST", f"cancel/{job}").json()["status"] == "CANCELLED"


def time_out(gated: Deployment, job: str) -> None:
    assert call(gated.url, "GET", f"status-sync/{job}").json()["status"] == "TIMED_OUT"


@pytest.mark.parametrize("end", [cancel, time_out])
def test_an_ended_job_frees_the_device_within_one_step_while_many_wait(
    gated: Deployment, end: Callable[[Deployment, str], None]
):
    """Checks 17, 19 and 20: of the job's four steps one more is taken, the one that the device was inside of."""
    first = submit(gated.url)
    gated.running()
    running = submit(gated.url, policy={"executionTimeout": 5000})
    waiting = [submit(gated.url) for _ in range(50)]
    cancel(gated, first)
    gated.gate.let()  # the step that the first one was inside of
    until(lambda: state_of(gated, running) is JobState.RUNNING)
    gated.gate.let()
    until(lambda: gated.service.get(ANONYMOUS, running[:36]).step == 1)
    end(gated, running)
    gated.gate.let()
    until(lambda: state_of(gated, waiting[0]) is JobState.RUNNING)
    assert gated.service.get(ANONYMOUS, running[:36]).step == 1
    assert call(gated.url, "POST", "purge-queue").json()["removed"] == 49
    cancel(gated, waiting[0])
    gated.gate.let()
    last = submit(gated.url)
    gated.gate.open()
    assert call(gated.url, "GET", f"status-sync/{last}").json()["status"] == "COMPLETED"
    assert JobState.SUCCEEDED not in {state_of(gated, job) for job in (first, running, *waiting)}


def state_of(gated: Deployment, job: str) -> JobState:
    return gated.service.get(ANONYMOUS, job[:36]).state
