"""OpenAI's own JavaScript package, unmodified, against a live server. Numbers are those of openai.md's checklist."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image

from retouch.jobs.job import JobState
from retouch.service import ServiceSettings
from tests.harness import Deployment, gated_server
from tests.live_server import LiveServer, live_server
from tests.sdk import node_clients
from tests.sdk.node_clients import needs_node, node_packages

__all__ = ["node_packages"]

pytestmark = [needs_node, pytest.mark.usefixtures("node_packages")]

RED, BLUE = (200, 30, 40), (20, 60, 220)


def plain_image(colour: tuple[int, int, int] = RED, size: tuple[int, int] = (160, 128)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def colour_of(answer: str) -> tuple[int, ...]:
    pixel = Image.open(io.BytesIO(base64.b64decode(answer))).convert("RGB").getpixel((5, 5))
    assert isinstance(pixel, tuple)
    return tuple(int(channel) for channel in pixel)


def near(answer: str, colour: tuple[int, int, int]) -> bool:
    return all(abs(a - b) <= 3 for a, b in zip(colour_of(answer), colour, strict=True))


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[Deployment]:
    with gated_server(tmp_path / "gated") as running:
        yield running


def call(server: LiveServer | Deployment, name: str, **given: Any) -> Any:
    return node_clients.call("openai", name, base=f"{server.url}/v1", image=text(plain_image()), **given)


def test_1_3_6_every_way_javascript_has_to_pass_a_file(server: LiveServer, tmp_path: Path):
    answers = call(server, "everyWayToPassAFile", folder=str(tmp_path))
    assert [len(answer) for answer in answers] == [1] * 7
    assert all(near(answer[0], RED) for answer in answers)


def test_4_lists_keep_their_order(server: LiveServer, tmp_path: Path):
    images = [text(plain_image(BLUE)), text(plain_image(RED))]
    answers = call(server, "listsOfImages", images=images, folder=str(tmp_path))
    assert [near(answer, colour) for answer, colour in zip(answers, (BLUE, BLUE, RED, BLUE), strict=True)] == [True] * 4


def test_7_a_buffer_is_refused_with_advice(server: LiveServer):
    error = call(server, "rawBuffer")
    assert (error["kind"], error["code"], error["param"]) == ("BadRequestError", "invalid_type", "image")
    assert "toFile" in error["message"]


def test_8_9_26_27_32_errors_are_the_clients_own_classes(server: LiveServer):
    returned = call(server, "refusals")
    found = {name: (error["kind"], error["status"], error["param"]) for name, error in returned.items()}
    assert found == {
        "noPrompt": ("BadRequestError", 400, "prompt"),
        "noImage": ("BadRequestError", 400, "image[0]"),
        "model": ("NotFoundError", 404, "model"),
        "number": ("BadRequestError", 400, "n"),
        "size": ("BadRequestError", 400, "size"),
        "stream": ("BadRequestError", 400, "partial_images"),
        "generate": ("BadRequestError", 400, returned["generate"]["param"]),
        "route": ("NotFoundError", 404, None),
        "method": ("APIError", 405, None),
        "variation": ("NotFoundError", 404, None),
    }
    assert returned["model"]["code"] == "model_not_found"
    assert all(error["requestId"] for error in returned.values())
    assert all(
        error["message"].startswith(str(error["status"])) and "undefined" not in error["message"]
        for error in returned.values()
    )


def test_10_too_many_bytes_are_413_for_the_client_too(server: LiveServer):
    error = call(server, "tooLarge")
    assert (error["status"], error["code"]) == (413, "image_too_large")


def test_13_15_18_extensions_are_decoded_as_from_python(server: LiveServer):
    returned = call(server, "extensions")
    answer = returned["answer"]
    assert answer["data"][0]["seed"] == 42
    assert sorted(answer["metadata"]["ignored_parameters"]) == ["nested", "tags"]
    assert returned["seeds"] == [7, 8, 9]
    assert returned["requestId"]
    assert returned["dry"]["estimated"] is True
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any") as client:
        more = {"seed": 42, "true_cfg_scale": 4.0, "num_inference_steps": 3, "nested": {"a": {"b": 1}}, "tags": ["a"]}
        same = client.images.edit(
            image=plain_image(), prompt="paint it", model="qwen-image-edit", size="128x128", extra_body=more
        )
    assert same.data is not None
    assert same.data[0].b64_json == answer["data"][0]["b64_json"]


def test_20_links_are_absolute_and_need_no_key(server: LiveServer):
    returned = call(server, "links")
    assert returned["url"].startswith(f"{server.url}/files/")
    assert (returned["type"], returned["begin"]) == ("image/png", "PNG")


def test_28_30_streams(server: LiveServer):
    returned = call(server, "streams")
    events = returned["events"]
    assert [event["type"] for event in events] == ["image_edit.completed"] * 2
    assert [(event["image_index"], event["seed"]) for event in events] == [(0, 5), (1, 6)]
    assert all(near(event["b64_json"], RED) for event in events)
    assert (returned["failure"]["code"], returned["failure"]["param"]) == ("invalid_image", "image[1]")


def test_31_a_consumer_that_leaves_frees_the_device(gated: Deployment):
    process = node_clients.start(
        "openai", "leavesAfterTheFirstPartial", base=f"{gated.url}/v1", image=text(plain_image())
    )
    gated.running()
    for step in range(1, 20):
        gated.gate.let()
        reached = gated.newest_once(lambda job, step=step: job.step >= step or job.cancel_requested)
        if reached.cancel_requested:
            break
    assert node_clients.returned(process) == "image_edit.partial_image"
    gated.newest_once(lambda job: job.cancel_requested or job.state is JobState.CANCELLED)
    gated.gate.let()
    assert gated.newest_once(lambda job: job.state.final).state is JobState.CANCELLED


def test_32_a_wrong_key(tmp_path: Path):
    with live_server(tmp_path / "keys", key=True, ready=False, arguments=("--workers", "0")) as guarded:
        error = call(guarded, "wrongKey")
    assert (error["kind"], error["status"], error["code"]) == ("AuthenticationError", 401, "invalid_api_key")
    assert error["requestId"]


def test_33_a_full_queue_is_429_and_a_file_gets_through_on_retry(tmp_path: Path):
    settings = ServiceSettings(max_waiting_per_account=1)
    edit: dict[str, Any] = {"image": plain_image(), "prompt": "x", "model": "qwen-image-edit", "size": "128x128"}
    with (
        gated_server(tmp_path / "full", settings=settings) as gated,
        ThreadPoolExecutor(2) as pool,
        openai.OpenAI(base_url=f"{gated.url}/v1", api_key="any", max_retries=0) as client,
    ):
        first = pool.submit(client.images.edit, **edit)
        gated.running()
        second = pool.submit(client.images.edit, **edit)
        gated.newest_once(lambda job: job.state is JobState.QUEUED)
        given = {"base": f"{gated.url}/v1", "image": text(plain_image()), "folder": str(tmp_path)}
        process = node_clients.start("openai", "fullQueue", **given)
        assert process.stdout is not None
        assert process.stdout.readline() == "full\n"
        gated.gate.open()
        returned = node_clients.returned(process)
        assert first.result().data
        assert second.result().data
    error = returned["error"]
    assert (error["kind"], error["status"], error["code"]) == ("RateLimitError", 429, "queue_full")
    assert returned["once"] == ["0"], "a stream that was read is not sent again"
    assert returned["counts"] == [str(number) for number in range(len(returned["counts"]))]
    assert returned["seed"] == 9


def test_34_a_deterministic_failure_is_sent_once(server: LiveServer):
    returned = call(server, "sentOnce")
    assert (returned["error"]["code"], returned["counts"]) == ("invalid_image", ["0"])


def test_35_an_idempotency_key_runs_once(server: LiveServer):
    returned = call(server, "sameKeyTwice")
    assert (returned["same"], returned["replayed"]) == (True, "true")
    assert (returned["other"]["kind"], returned["other"]["code"]) == (
        "UnprocessableEntityError",
        "idempotency_key_reused",
    )


def test_37_38_models_by_both_prefixes(server: LiveServer):
    returned = call(server, "models")
    assert returned["ids"] == ["qwen-image-edit", "qwen-image-edit-plus", "qwen-image-2"]
    assert returned["one"] == "qwen-image-edit-plus"
    assert returned["counts"] == [3, 3]
