"""Runs the worker processes of `serve`: starts them, starts them again when they die, stops them at the end.

Each worker reads its standard input, which nothing writes: when this process is gone, however it died, the
input ends and the worker stops. The supervisor knows nothing of jobs; a lost job is rescued by its lease.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import structlog

logger = structlog.get_logger(__name__)

EXIT_FATAL = 3
"""A worker's exit code when starting it again cannot help: unknown model, missing packages, bad settings."""

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
STEADY_AFTER_S = 60.0
"""A worker that lived so long is started again without the pauses its earlier deaths have earned."""

STOPPED_WITHIN_S = 8.0

GPU_FOLDER = Path("/proc/driver/nvidia/gpus")


class Supervisor:
    """`count` processes of one command, kept alive by a thread each.

    fatal: called once, from a thread, when a worker says that it can never start.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], count: int, *, fatal: Callable[[], None]
    ) -> None:
        self._command = tuple(command)
        self._environments = [worker_environment(environment, index, count) for index in range(count)]
        self._fatal = fatal
        self._stopping = threading.Event()
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._keep_alive, args=(index,), name=f"worker-{index}", daemon=True)
            for index in range(count)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop every worker, by a signal that it can answer at first; returns when none is left."""
        self._stopping.set()
        with self._lock:
            running = tuple(self._running.values())
        for process in running:
            process.terminate()
        until = time.monotonic() + STOPPED_WITHIN_S
        for process in running:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                logger.warning("a worker did not stop and is killed", worker=process.pid)
                process.kill()
        for thread in self._threads:
            thread.join(STOPPED_WITHIN_S)

    def _keep_alive(self, index: int) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            began = time.monotonic()
            with self._lock:  # either `stop` sees the process, or this sees that there shall be none
                if self._stopping.is_set():
                    return
                process = subprocess.Popen(  # noqa: S603 - our own command
                    self._command,
                    stdin=subprocess.PIPE,
                    env=self._environments[index],
                    process_group=0,  # an interrupt at the terminal is for `serve`, which then stops its workers
                )
                self._running[index] = process
            code = process.wait()
            assert process.stdin is not None, "opened as a pipe above"
            process.stdin.close()
            with self._lock:
                del self._running[index]
            if self._stopping.is_set():
                return
            if code == EXIT_FATAL:
                self._fatal()
                return
            if time.monotonic() - began >= STEADY_AFTER_S:
                pause_s = FIRST_PAUSE_S
            logger.warning("a worker died and is started again", code=code, pause_s=pause_s)
            self._stopping.wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def worker_environment(environment: Mapping[str, str], index: int, count: int) -> dict[str, str]:
    """The variables of worker `index`: where there are several GPUs, workers take turns in choosing one."""
    gpus = len(list(GPU_FOLDER.iterdir())) if GPU_FOLDER.is_dir() else 0
    if count > 1 and gpus > 1 and "CUDA_VISIBLE_DEVICES" not in environment:
        return {**environment, "CUDA_VISIBLE_DEVICES": str(index % gpus)}
    return dict(environment)
