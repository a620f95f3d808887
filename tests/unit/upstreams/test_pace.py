"""Polls: spaced for each key together, and rarer the longer a job takes."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

from retouch.storage.objects import LocalBlobs
from retouch.upstreams.call_run import POLL_GROWTH
from retouch.upstreams.options import UpstreamOptions
from retouch.upstreams.registry import open_upstream
from retouch.upstreams.waits import Pace
from tests.upstreams.gateway_world import GatewayWorld
from tests.waiting import until


def test_fifty_jobs_of_one_key_stay_together_below_the_rate_and_other_keys_do_not_wait() -> None:
    pace, began = Pace(), time.monotonic()
    turns = [began + pace.turn_s("a", 20.0) for _ in range(50)]
    assert all(later - earlier >= 0.05 - (time.monotonic() - began) for earlier, later in itertools.pairwise(turns))
    assert turns[-1] >= began + 49 / 20 - (time.monotonic() - began)
    assert pace.turn_s("b", 20.0) == 0.0


def test_dashscopes_twenty_requests_a_second_are_kept_with_room_for_cancels(tmp_path: Path) -> None:
    options = UpstreamOptions(LocalBlobs(tmp_path, bytes(32)), lambda scheme: scheme, "https://dashscope.example")
    assert open_upstream("dashscope", options).traits.polls_per_second == 15.0


def test_pauses_between_polls_grow_to_the_cap(tmp_path: Path) -> None:
    world = GatewayWorld(tmp_path, "", "fal", traits={"poll_s": 0.01, "poll_cap_s": 0.05})
    try:
        world.stub("fal").plan = ("running",) * 13 + ("done",)
        pauses = [min(0.01 * POLL_GROWTH**number, 0.05) for number in range(13)]
        with world.gateway():
            began = time.monotonic()
            job = world.edit()
            until(lambda: len(world.stub("fal").at("poll")) >= 14)
            assert time.monotonic() - began >= sum(pauses)
            world.finished(job.id)
    finally:
        world.close()
