"""How many files a reader opens to follow one edit, counted while it happens; a longer walk fails here.

A file counts when a function of it is called between a face's route and its answer, or between the lease of a job and its
end. What a library calls back (column types, a parser's callbacks) is no station: no line of ours calls it.
"""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import httpx2
import pytest

import retouch
from tests.harness import Deployment, png

SOURCES = f"{Path(retouch.__file__).parent}/"
SERVING = re.compile(r"Thread-|AnyIO|watch_")
WORKING = re.compile(r"lease|stage|engine")
CALLBACKS = re.compile(r"/(sqlalchemy|python_multipart|structlog)/")
IMAGE = png()
DATA_URI = "data:image/png;base64," + base64.b64encode(IMAGE).decode()


class Recorder:
    """Notes, in order, the files that threads enter which are started after it is installed."""

    def __init__(self) -> None:
        self._begin = ""
        self._threads = SERVING
        self._walk: dict[str, None] | None = None

    def install(self) -> None:
        threading.setprofile(self._on_event)

    def shortest_walk(self, begin: str, threads: re.Pattern[str], edit: Callable[[], object]) -> list[str]:
        """The files from the first call of `begin`, `file:function`, until `edit` has returned.

        Of three edits, because housekeeping may run on the same threads meanwhile.
        """
        walks = []
        for _ in range(3):
            self._begin, self._threads, self._walk = begin, threads, None
            edit()
            self._begin, walk, self._walk = "", self._walk, None
            walks.append(list(walk or ()))
        return min(walks, key=len)

    def _on_event(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(SOURCES) or code.co_name == "<module>":
            return
        file = code.co_filename.removeprefix(SOURCES)
        if self._walk is None and f"{file}:{code.co_name}" == self._begin:
            self._walk = {}
        if self._walk is None or file in self._walk:
            return
        if self._threads.match(threading.current_thread().name) and _is_call(frame):
            self._walk[file] = None


def _is_call(frame: FrameType) -> bool:
    """Whether a function begins here that no library calls back; not a coroutine that goes on."""
    if frame.f_code.co_code[frame.f_lasti + 1] != 0:  # the argument of RESUME: 0 where a function begins
        return False
    caller = frame.f_back
    while caller is not None:
        if CALLBACKS.search(caller.f_code.co_filename):
            return False
        caller = caller.f_back
    return True


@contextmanager
def installed() -> Iterator[Recorder]:
    recorder = Recorder()
    recorder.install()
    try:
        yield recorder
    finally:
        threading.setprofile(None)  # type: ignore[arg-type]  # None ends it, whatever the stub says


def no_longer_than(most: int, walk: list[str]) -> None:
    print(f"{len(walk)} files: {', '.join(walk)}")
    assert 0 < len(walk) <= most, f"{len(walk)} files instead of {most}: {', '.join(walk)}"


def submit_fal(url: str) -> None:
    body = {"prompt": "make it red", "image_url": DATA_URI}
    httpx2.post(f"{url}/fal/queue/fal-ai/qwen-image-edit", json=body).raise_for_status()


def submit_runpod(url: str) -> None:
    body = {"input": {"prompt": "make it red", "image": DATA_URI}}
    httpx2.post(f"{url}/v2/qwen-image-edit/run", json=body).raise_for_status()


def edit_openai(url: str) -> None:
    file = {"image": ("a.png", IMAGE, "image/png")}
    httpx2.post(f"{url}/v1/images/edits", data={"prompt": "make it red"}, files=file, timeout=30).raise_for_status()


@pytest.mark.parametrize(
    ("begin", "call", "most"),
    [
        pytest.param("protocols/fal/routes.py:submit", submit_fal, 17, id="fal, submit"),
        pytest.param("protocols/runpod/routes.py:run", submit_runpod, 17, id="RunPod, run"),
        pytest.param("protocols/openai/routes.py:edit", edit_openai, 20, id="OpenAI, edit"),
    ],
)
def test_the_walk_of_a_call_through_the_server_is_short(
    tmp_path: Path, begin: str, call: Callable[[str], None], most: int
) -> None:
    with installed() as recorder, Deployment(tmp_path) as world, world.server() as url, world.worker():
        call(url)
        walk = recorder.shortest_walk(begin, SERVING, lambda: call(url))
    no_longer_than(most, walk)


def test_the_walk_of_a_job_through_the_worker_is_short(tmp_path: Path) -> None:
    with installed() as recorder, Deployment(tmp_path, uploads=True) as world, world.worker():
        world.finished(world.submit().id)
        walk = recorder.shortest_walk("service.py:lease", WORKING, lambda: world.finished(world.submit().id))
    no_longer_than(21, walk)
