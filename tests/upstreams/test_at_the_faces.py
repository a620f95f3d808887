"""A hosted edit as callers of each face see it: waiting, refused, hung up on, and after the provider has forgotten it."""

from __future__ import annotations

import http.client
import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.live_server import LiveServer
from tests.upstreams.stubs.fal import FalStub
from tests.upstreams.stubs.openai import OpenAIStub
from tests.upstreams.stubs.server import Says
from tests.upstreams.test_gateway_server import call, data_uri, gateway_server
from tests.waiting import until

APP = "fal-ai/qwen-image-edit-plus"
REFUSAL = Says.json(422, {"detail": [{"loc": ["body", "prompt"], "msg": "No.", "type": "content_policy_violation"}]})


@pytest.fixture(scope="module")
def stubs() -> tuple[FalStub, OpenAIStub]:
    return FalStub(), OpenAIStub()


@pytest.fixture(scope="module")
def server(stubs: tuple[FalStub, OpenAIStub], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with gateway_server(tmp_path_factory.mktemp("faces"), {"fal": stubs[0], "lumenfall": stubs[1]}) as running:
        yield running


@pytest.fixture
def fal(stubs: tuple[FalStub, OpenAIStub]) -> FalStub:
    stub = stubs[0]
    stub.plan = ("queued", "running", "done")
    stub.seen.clear()
    return stub


def openai_body() -> dict[str, Any]:
    return {"model": "qwen-image-edit-plus", "prompt": "x", "images": [data_uri()]}


def fal_edit(server: LiveServer) -> str:
    """The path of a queued edit."""
    queued = call(server, f"/fal/queue/{APP}", {"prompt": "x", "image_urls": [data_uri()]})
    return f"/fal/queue/{APP}/requests/{queued['request_id']}"


def completed(server: LiveServer, place: str) -> Any:
    until(lambda: call(server, f"{place}/status")["status"] == "COMPLETED")
    return call(server, place)


def test_a_refusal_has_the_shape_of_each_face_and_no_other_target_is_tried(
    server: LiveServer, fal: FalStub, stubs: tuple[FalStub, OpenAIStub]
) -> None:
    fal.script("submit", REFUSAL, REFUSAL, REFUSAL)
    answer = call(server, "/v1/images/edits", openai_body())
    assert (answer["status"], answer["error"]["code"]) == (400, "content_policy_violation")
    answer = completed(server, fal_edit(server))
    assert (answer["status"], answer["detail"][0]["type"]) == (422, "content_policy_violation")
    answer = call(server, "/v2/qwen-image-edit/runsync", {"input": {"prompt": "x", "image": data_uri()}})
    assert (answer["status"], answer["error"]) == ("FAILED", "prompt: No.")
    assert len(fal.at("submit")) == 3
    assert not stubs[1].at("submit")


def test_the_providers_queue_is_seen_at_each_face_also_when_an_edit_steps_back(
    server: LiveServer, fal: FalStub
) -> None:
    fal.plan = ("queued", "running", "queued", "running", "done")
    place = fal_edit(server)
    run = call(server, "/v2/qwen-image-edit/run", {"input": {"prompt": "x", "image": data_uri()}})
    states = set()

    def ended() -> bool:
        states.add(call(server, f"/v2/qwen-image-edit/status/{run['id']}")["status"])
        return "COMPLETED" in states

    until(ended)
    assert "IN_PROGRESS" in states
    completed(server, place)
    messages = [line["message"] for line in call(server, f"{place}/status?logs=1")["logs"]]
    order = [line.rpartition(": ")[2].partition(",")[0] for line in messages if ": " in line]
    assert order == ["queued", "running", "queued", "running"], messages
    request = urllib.request.Request(
        f"{server.url}/v1/images/edits",
        json.dumps({**openai_body(), "stream": True}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert b"event: image_edit.completed" in answer.read()


@pytest.mark.parametrize(("headers", "cancelled"), [({}, True), ({"Idempotency-Key": "once"}, False)])
def test_a_caller_who_hangs_up_ends_the_edit_there_unless_it_can_be_asked_for_again(
    server: LiveServer, fal: FalStub, headers: dict[str, str], cancelled: bool
) -> None:
    fal.plan = ("running",)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    body = json.dumps(openai_body()).encode()
    connection.request("POST", "/v1/images/edits", body, {"Content-Type": "application/json", **headers})
    until(lambda: fal.at("poll"))
    connection.close()
    if cancelled:
        until(lambda: fal.at("cancel"))
    else:
        polls = len(fal.at("poll"))
        until(lambda: len(fal.at("poll")) >= polls + 2)
        assert not fal.at("cancel")
        (job,) = (job for job in fal.jobs.values() if job.state == "running")
        job.plan.append("done")
        job.plan.popleft()
        request = urllib.request.Request(
            f"{server.url}/v1/images/edits", body, {"Content-Type": "application/json", **headers}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 200
    assert len(fal.at("submit")) == 1


def test_our_link_serves_the_image_after_the_provider_has_deleted_it(server: LiveServer, fal: FalStub) -> None:
    (image,) = completed(server, fal_edit(server))["images"]
    fal.files.clear()
    assert image["url"].startswith(server.url)
    with urllib.request.urlopen(image["url"], timeout=10) as answer:
        assert answer.read().startswith(b"\x89PNG")
