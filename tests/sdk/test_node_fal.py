"""fal's own JavaScript packages, unmodified, against a live server. Numbers are those of fal.md's checklist."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from retouch.accounts.keys import Keys
from retouch.jobs.job import JobState
from tests.live_server import LiveServer, live_server
from tests.sdk import node_clients
from tests.sdk.fal import DATA_URI, Hands, arguments, hands_at, photo
from tests.sdk.node_clients import needs_node, node_packages
from tests.waiting import until

__all__ = ["node_packages"]

pytestmark = [needs_node, pytest.mark.usefixtures("node_packages")]

IMAGE = base64.b64encode(photo()).decode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("node-fal"), tls=True) as running:
        yield running


@pytest.fixture(scope="module")
def idle_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server without a worker and with a key: whatever is submitted waits."""
    data = tmp_path_factory.mktemp("node-fal-idle")
    with live_server(data, key=True, ready=False, arguments=("--workers", "0")) as running:
        yield running


@pytest.fixture
def hands(idle_server: LiveServer) -> Iterator[Hands]:
    with hands_at(idle_server) as made:
        yield made


def trusting(server: LiveServer) -> dict[str, str]:
    return {"NODE_EXTRA_CA_CERTS": str(server.data / "tls" / "authority.pem")}


def call(server: LiveServer, name: str, **given: Any) -> Any:
    variables = trusting(server) if server.url.startswith("https") else {}
    return node_clients.call("fal", name, server=server.url, key=server.key, variables=variables, **given)


def check_everything(said: dict[str, Any], links_begin: str) -> None:
    assert said["seeds"] == [7] * 6
    assert said["first"] == "PNG"
    assert all(link.startswith(links_begin) for link in (*said["links"], said["uploaded"]))
    assert all(said["requestIds"])
    assert said["updates"].count("COMPLETED") >= 2
    assert set(said["updates"]) <= {"IN_QUEUE", "IN_PROGRESS", "COMPLETED"}
    assert said["submitted"]["status"] == "IN_QUEUE"
    assert said["status"]["status"] == "COMPLETED"
    assert isinstance(said["status"]["logs"], list)
    assert said["status"]["metrics"]["inference_time"] >= 0
    assert (said["late"]["kind"], said["late"]["status"]) == ("ApiError", 400)
    assert said["late"]["body"]["status"] == "ALREADY_COMPLETED"
    assert said["events"] >= 1
    assert said["uploadedIsTheSame"]


@pytest.mark.parametrize("recipe", ["middleware", "proxy", "fetch"])
def test_every_verb_works_by_each_recipe(server: LiveServer, recipe: str):
    """Checklist 2, 6, 7, 9, 15, 22, 31, 32, 33, 35, 40, 47 and 51: recipes 16.5, 16.6 and 16.7, TLS included."""
    check_everything(call(server, "everything", recipe=recipe, image=IMAGE), f"{server.url}/files/")


def test_every_verb_works_by_the_vendors_names(server: LiveServer):
    """Checklist 4 and 51: recipe 16.4; no line of code changes, and the links keep those names."""
    said = node_clients.call(
        "fal",
        "everything",
        server=server.url,
        recipe="names",
        image=IMAGE,
        options=("--require", str(node_clients.FOLDER / "names.cjs")),
        variables={**trusting(server), "HERE": str(server.port)},
    )
    check_everything(said, "https://v3.fal.media/files/")


def test_cancelling_a_waiting_request(idle_server: LiveServer):
    """Checklist 6, 11, 12, 13, 16 and 24."""
    said = call(idle_server, "cancelWaiting", input=arguments())
    assert said["waiting"]["status"] == "IN_QUEUE"
    assert said["waiting"]["queue_position"] >= 0
    assert (said["early"]["status"], said["early"]["message"]) == (400, "Request is still in progress")
    assert said["status"]["status"] == "COMPLETED"
    assert said["status"]["error_type"] == "client_cancelled"
    assert (said["result"]["kind"], said["result"]["status"]) == ("ApiError", 499)
    assert said["result"]["body"]["error_type"] == "client_cancelled"
    assert said["result"]["requestId"] == said["requestId"]


def test_both_timeouts_of_the_client(idle_server: LiveServer, hands: Hands):
    """Checklist 19: no retry after the first, a cancel after the second."""
    said = call(idle_server, "timeouts", input=arguments())
    assert (said["start"]["status"], said["user"]) == (504, True)
    assert said["start"]["body"]["error_type"] == "request_timeout"
    assert "timed out" in said["client"]
    assert said["runs"] == 1
    assert said["cancelled"]["error_type"] == "client_cancelled"
    assert hands.service.lease("hands", ["null"], 60) is None


def test_an_aborted_run_cancels_its_edit(idle_server: LiveServer, hands: Hands):
    """Checklist 14: the client hangs up."""
    process = node_clients.start("fal", "hangUp", server=idle_server.url, key=idle_server.key, input=arguments())
    lease = until(lambda: hands.service.lease("hands", ["null"], 60))
    assert node_clients.said(process) == "AbortError"
    until(lambda: hands.service.renew(lease, 60))
    assert hands.service.acknowledge_cancel(lease).state is JobState.CANCELLED


def test_refusals_are_useful(server: LiveServer):
    """Checklist 12, 17, 25, 26, 28, 29 and 31."""
    said = call(server, "refusals", image=IMAGE)
    invalid = said["invalid"]
    assert (invalid["kind"], invalid["status"]) == ("ValidationError", 422)
    assert said["fields"] == [["missing"], ["less_than_equal"], []]
    assert "prompt: Field required" in invalid["message"]
    assert IMAGE[:100] not in str(said)
    assert DATA_URI[:60] not in str(said)
    assert said["broken"]["kind"] == "ValidationError"
    assert said["broken"]["body"]["detail"][0]["loc"] == ["body", "image_urls", 0]
    assert said["broken"]["message"] not in ("", "Unprocessable Entity")
    assert (said["unknown"]["kind"], said["unknown"]["status"]) == ("ApiError", 404)
    assert "no-such-model" in said["unknown"]["message"]
    assert (said["inStream"]["kind"], said["inStream"]["status"]) == ("ValidationError", 422)
    assert said["nobody"]["status"] == 404
    assert all(said[each]["requestId"] for each in ("invalid", "broken", "unknown", "inStream", "nobody"))


def test_a_wrong_key_is_refused_once_and_another_key_sees_nothing(idle_server: LiveServer, hands: Hands):
    """Checklist 17 and 18."""
    secret = Keys(hands.database).create("other")
    said = call(idle_server, "wrongKeys", input=arguments(), other=secret)
    assert (said["error"]["kind"], said["error"]["status"]) == ("ApiError", 401)
    assert said["error"]["message"]
    assert said["sent"] == 1
    assert said["unseen"]["status"] == 404


def test_lifecycles_of_uploads_and_results(server: LiveServer):
    """Checklist 37 and 45: what the client asks for is how long a link may be kept."""
    upload_s, result_s = call(server, "lifecycle", image=IMAGE)
    assert 3500 < upload_s <= 3600
    assert 86_000 < result_s <= 86_400


def test_an_upload_of_91_mebibytes_comes_in_parts(server: LiveServer):
    """Checklist 36."""
    assert call(server, "largeUpload")["same"]


def test_streams_with_tokens_in_place_of_the_key(server: LiveServer):
    """Checklist 49: the client's connection mode for browsers."""
    said = call(server, "clientModeStream", image=IMAGE)
    assert said["seeds"] == [3, 3]
    assert said["forged"]["status"] == 401


def test_a_conversation_over_the_realtime_socket(server: LiveServer):
    """Checklist 49: recipe 16.8, with a token; an error does not end it."""
    said = call(server, "realtime", image=IMAGE)
    assert [each["seed"] for each in said["results"]] == [4, 5]
    assert said["results"][0]["url"].startswith("data:image/png")
    (error,) = said["errors"]
    assert (error["kind"], error["status"]) == ("ApiError", 400)
    assert "image_url" in error["message"]


def test_the_vendors_own_proxy_in_between(server: LiveServer):
    """Recipe 16.9, with the Express adapter: run, subscribe, stream and a small upload."""
    assert call(server, "theirProxy", image=IMAGE) == [5, 5, 5]
