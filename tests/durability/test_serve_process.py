"""The process an operator starts: what it weighs, what it keeps alive, how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

from tests.live_server import clean_environment, live_server, retouch, start_server
from tests.waiting import WITHIN_S, until

PSS_LIMIT_BYTES = 150 * 1024 * 1024
START_LIMIT_S = 3.0


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()] + [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        if task.name != str(pid)
        for child in (task / "children").read_text().split()
    ]


def memory_bytes(pid: int) -> int:
    """Proportional set size: what this process adds to the machine."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no Pss line")


def processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_gone(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_the_server_is_light_and_has_no_torch_in_it(tmp_path: Path) -> None:
    with live_server(tmp_path, arguments=("--workers", "0"), ready=False) as server:
        pid = server.process.pid
        assert processor_s(pid) < START_LIMIT_S
        assert memory_bytes(pid) < PSS_LIMIT_BYTES
        assert "torch" not in Path(f"/proc/{pid}/maps").read_text()


def test_a_worker_that_is_killed_is_replaced(tmp_path: Path) -> None:
    with live_server(tmp_path) as server:
        [first] = children(server.process.pid)
        os.kill(first, signal.SIGKILL)
        until(lambda: [pid for pid in children(server.process.pid) if pid != first] != [])
        until(lambda: server.get("/metrics")[1].count(b'state="ready"') == 2)
        assert server.get("/ready")[0] == 200


def test_no_worker_outlives_its_server_however_it_ends(tmp_path: Path) -> None:
    for kill in (True, False):
        with live_server(tmp_path) as server:
            [worker] = children(server.process.pid)
            if kill:
                server.kill()
            else:
                assert server.stop() == 0
            until(lambda pid=worker: is_gone(pid))  # type: ignore[misc]


def test_a_model_that_is_not_there_ends_the_server_with_a_sentence(tmp_path: Path) -> None:
    server = start_server(tmp_path, model=str(tmp_path / "nothing"))
    assert server.process.wait(WITHIN_S) == 1
    assert "There is no folder" in server.log()
    assert "Traceback" not in server.log()


def test_a_worker_by_itself_says_what_is_wrong(tmp_path: Path) -> None:
    command = retouch("worker", "--model", "nope", "--data", str(tmp_path))
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=WITHIN_S, env=clean_environment(), check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("retouch: There is no checkpoint 'nope'")


def test_a_server_starts_in_a_pod_and_on_a_terminal_without_unicode(tmp_path: Path) -> None:
    """Kubernetes sets these beside a service named `retouch`; the dots of "Loading …" are no ASCII."""
    environment = {
        "PYTHONIOENCODING": "ascii",
        "RETOUCH_PORT": "tcp://10.96.0.7:8000",
        "RETOUCH_SERVICE_HOST": "10.96.0.7",
        "RETOUCH_SERVICE_PORT": "8000",
        "RETOUCH_PORT_8000_TCP_ADDR": "10.96.0.7",
        "RETOUCH_API_PORT": "tcp://10.96.0.8:9000",
    }
    with live_server(tmp_path, environment=environment) as server:
        assert server.get("/ready")[0] == 200
        assert "Loading the model 'null' ..." in server.log()
        assert "is not a setting" not in server.log()


def test_a_model_that_cannot_be_loaded_leaves_the_others_running(tmp_path: Path) -> None:
    missing = tmp_path / "none" / "qwen-image-edit-2511"
    with live_server(tmp_path, arguments=("--model", str(missing))) as server:
        readiness = json.loads(server.get("/ready")[1])
        assert readiness["models"] == {"null": "ready", missing.name: f"There is no folder '{missing}'."}
        until(lambda: f"Not served: '{missing.name}'. There is no folder" in server.log())
        until(lambda: "with the model 'null'." in server.log())
        assert "'null' serves qwen-image-edit, qwen-image-2, fal-ai/qwen-image-edit" in server.log()
        assert "'qwen-image-edit-2511' serves" not in server.log()
        page = server.get("/metrics")[1].decode()
    assert 'retouch_route{model="fal-ai/qwen-image-edit",queue="null"} 1.0' in page
