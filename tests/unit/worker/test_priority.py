"""Staging threads stand behind the engine's."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from retouch.worker.priority import BACKGROUND, work_in_the_background


@pytest.mark.skipif(sys.platform != "linux", reason="only there has a thread a priority of its own")
def test_a_thread_in_the_background_is_nicer_than_the_one_that_started_it() -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = niceness()
    with ThreadPoolExecutor(1, initializer=work_in_the_background) as pool:
        assert pool.submit(niceness).result() == min(19, before + BACKGROUND)
    assert niceness() == before, "this thread is as it was"
