"""Providers that answer with any JSON but the right one: an outcome is told, and it is never a fault of ours."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from retouch.upstreams.upstream import Accepted, Failed, Finished, Pending, Unreadable
from tests.upstreams.conftest import KINDS, QUEUED, make_world
from tests.upstreams.stubs.server import Says

ODD: tuple[Any, ...] = (None, 5, "x", [], {}, [None, 5, "x", []], {"a": 1}, True)
"""What a member of an answer can be instead of what it should be."""

TOP = ("status", "output", "images", "data", "logs", "code", "error", "detail", "urls", "metadata", "title")
INNER = ("task_status", "task_id", "choices", "code", "message", "image_url", "result", "cost", "seed")


def nested(name: str, depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = {name: value}
    return value


def odd_answers() -> list[Any]:
    """Odd values at the top, in an answer that says it has ended, in `output`, and further down where a kind looks."""
    ended = [{"status": state} for state in ("COMPLETED", "FAILED", "succeeded", "failed")]
    members = ("output", "error", "logs")
    return [
        *ODD,
        *({name: value} for name in TOP for value in ODD),
        *({**state, name: value} for state in ended for name in members for value in ODD),
        *({"output": {"task_status": "SUCCEEDED", name: value}} for name in INNER for value in ODD),
        *({"output": {"choices": [{"message": {"content": value}}], "task_status": "SUCCEEDED"}} for value in ODD),
        *({"detail": [{"loc": value, "msg": value, "type": value}]} for value in ODD),
        {"status": "COMPLETED", "output": nested("image_url", 900)},
        *({"images": [{"url": value}], "seed": value, "has_nsfw_concepts": value} for value in ODD),
        *({"data": [{"b64_json": value, "url": value}], "usage": value} for value in ODD),
        *({"error": {"message": value, "code": value, "type": value}} for value in ODD),
    ]


@pytest.mark.parametrize(
    ("kind", "station"),
    [(kind, "submit") for kind in KINDS] + [(kind, station) for kind in QUEUED for station in ("poll", "result")],
)
@pytest.mark.parametrize("status", [200, 422])
def test_an_answer_of_any_shape_is_an_outcome(kind: str, station: str, status: int, tmp_path: Path) -> None:
    world = make_world(KINDS[kind], tmp_path)
    try:
        world.stub.plan = ("done",)
        call = world.call()
        submitted = world.upstream.submit(call) if station != "submit" else None
        for answer in odd_answers():
            world.stub.script(station, Says.json(status, answer))
            outcome = world.upstream.poll(submitted.ticket) if isinstance(submitted, Accepted) else None
            outcome = outcome or world.upstream.submit(call)
            assert isinstance(outcome, Accepted | Failed | Finished | Pending | Unreadable), answer
    finally:
        world.close()


def test_a_history_of_any_shape_names_nothing(tmp_path: Path) -> None:
    for kind in QUEUED:
        world = make_world(KINDS[kind], tmp_path / kind)
        for member in ("items", "results", "next", "next_cursor"):
            for value in ODD:
                world.stub.script("history", Says.json(200, {member: value}))
                assert world.upstream.find(world.call(), datetime.now(UTC)) is None
        world.close()


def test_a_task_that_has_a_name_is_taken_whatever_else_its_answer_says(tmp_path: Path) -> None:
    world = make_world(KINDS["dashscope task"], tmp_path)
    world.stub.script("submit", Says.json(200, {"code": "Odd", "message": "because", "output": {"task_id": "task-1"}}))
    outcome = world.upstream.submit(world.call())
    world.close()
    assert isinstance(outcome, Accepted), outcome
    assert outcome.ticket.id == "task-1"
