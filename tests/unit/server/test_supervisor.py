"""Workers are kept alive, stopped, and left alone when starting again cannot help."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from retouch.server import supervisor
from retouch.server.supervisor import EXIT_FATAL, Supervisor, worker_environment

WITHIN_S = 20.0


def script(source: str, *arguments: object) -> tuple[str, ...]:
    return (sys.executable, "-c", source, *map(str, arguments))


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_S", 0.01)


def test_a_worker_that_dies_is_started_again(tmp_path: Path) -> None:
    pid_file = tmp_path / "pids"
    pid_file.touch()
    twice = threading.Event()
    source = "import sys\nopen(sys.argv[1], 'a').write('x')\nsys.exit(1 if len(open(sys.argv[1]).read()) < 3 else 3)"
    keeper = Supervisor(script(source, pid_file), {}, 1, fatal=twice.set)
    keeper.start()
    assert twice.wait(WITHIN_S)
    keeper.stop()
    assert pid_file.read_text() == "xxx"


def test_a_worker_that_cannot_ever_start_is_not_started_again() -> None:
    signalled = threading.Event()
    keeper = Supervisor(script(f"raise SystemExit({EXIT_FATAL})"), {}, 1, fatal=signalled.set)
    keeper.start()
    assert signalled.wait(WITHIN_S)
    keeper.stop()


def test_a_stop_ends_every_worker() -> None:
    keeper = Supervisor(script("import sys; sys.stdin.read()"), {}, 3, fatal=lambda: None)
    keeper.start()
    while len(keeper._running) < 3:
        pass
    processes = tuple(keeper._running.values())
    keeper.stop()
    assert all(process.returncode is not None for process in processes)


def test_workers_take_turns_on_the_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(supervisor, "GPU_FOLDER", tmp_path)
    chosen = [worker_environment({}, index, 3).get("CUDA_VISIBLE_DEVICES") for index in range(3)]
    assert chosen == ["0", "1", "0"]
    assert worker_environment({"CUDA_VISIBLE_DEVICES": "5"}, 0, 3) == {"CUDA_VISIBLE_DEVICES": "5"}
    assert worker_environment({}, 0, 1) == {}
