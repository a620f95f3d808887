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


@pytest.fixture
def hands(idle_server: LiveServer) -> Iterator[Hands]:
    with hands_at(idle_server) as made:
        yield made


def trusting(server: LiveServer) -> dict[str, str]:
    return {"NODE_EXTRA_CA_CERTS": str(server.data / "tls" / "authority.pem")}


def call(server: LiveServer, name: str, **given: Any) -> Any:
    variables = trusting(server) if server.url.startswith("https") else {}
    return node_clients.call("fal", name, server=server.url, key=server.key, variables=variables, **given)


def check_everything(returned: dict[str, Any], links_begin: str) -> None:
    assert returned["seeds"] == [7] * 6
    assert returned["first"] == "PNG"
    assert all(link.startswith(links_begin) for link in (*returned["links"], returned["uploaded"]))
    assert all(returned["requestIds"])
    assert returned["updates"].count("COMPLETED") >= 2
    assert set(returned["updates"]) <= {"IN_QUEUE", "IN_PROGRESS", "COMPLETED"}
    assert returned["submitted"]["status"] == "IN_QUEUE"
    assert returned["status"]["status"] == "COMPLETED"
    assert isinstance(returned["status"]["logs"], list)
    assert returned["status"]["metrics"]["inference_time"] >= 0
    assert (returned["late"]["kind"], returned["late"]["status"]) == ("ApiError", 400)
    assert returned["late"]["body"]["status"] == "ALREADY_COMPLETED"
    assert returned["events"] >= 1
    assert returned["uploadedIsTheSame"]


@pytest.mark.parametrize("recipe", ["middleware", "proxy", "fetch"])
def test_every_verb_works_by_each_recipe(server: LiveServer, recipe: str):
    """Checklist 2, 6, 7, 9, 15, 22, 31, 32, 33, 35, 40, 47 and 51: recipes 16.5, 16.6 and 16.7, TLS included."""
    check_everything(call(server, "everything", recipe=recipe, image=IMAGE), f"{server.url}/files/")


def test_every_verb_works_by_the_vendors_names(server: LiveServer):
    """Checklist 4 and 51: recipe 16.4; no line of code changes, and the links keep those names."""
    returned = node_clients.call(
        "fal",
        "everything",
        server=server.url,
        recipe="names",
        image=IMAGE,
        options=("--require", str(node_clients.FOLDER / "names.cjs")),
        variables={**trusting(server), "HERE": str(server.port)},
    )
    check_everything(returned, "https://v3.fal.media/files/")


def test_cancelling_a_waiting_request(idle_server: LiveServer):
    """Checklist 6, 11, 12, 13, 16 and 24."""
    returned = call(idle_server, "cancelWaiting", input=arguments())
    assert returned["waiting"]["status"] == "IN_QUEUE"
    assert returned["waiting"]["queue_position"] >= 0
    assert (returned["early"]["status"], returned["early"]["message"]) == (400, "Request is still in progress")
    assert returned["status"]["status"] == "COMPLETED"
    assert returned["status"]["error_type"] == "client_cancelled"
    assert (returned["result"]["kind"], returned["result"]["status"]) == ("ApiError", 499)
    assert returned["result"]["body"]["error_type"] == "client_cancelled"
    assert returned["result"]["requestId"] == returned["requestId"]


def test_both_timeouts_of_the_client(idle_server: LiveServer, hands: Hands):
    """Checklist 19: no retry after the first, a cancel after the second."""
    returned = call(idle_server, "timeouts", input=arguments())
    assert (returned["start"]["status"], returned["user"]) == (504, True)
    assert returned["start"]["body"]["error_type"] == "request_timeout"
    assert "timed out" in returned["client"]
    assert returned["runs"] == 1
    assert returned["cancelled"]["error_type"] == "client_cancelled"
    assert hands.service.lease("hands", ["null"], 60) is None


def test_an_aborted_run_cancels_its_edit(idle_server: LiveServer, hands: Hands):
    """Checklist 14: the client hangs up."""
    process = node_clients.start("fal", "hangUp", server=idle_server.url, key=idle_server.key, input=arguments())
    lease = until(lambda: hands.service.lease("hands", ["null"], 60))
    assert node_clients.returned(process) == "AbortError"
    until(lambda: hands.service.renew(lease, 60))
    assert hands.service.acknowledge_cancel(lease).state is JobState.CANCELLED


def test_refusals_are_useful(server: LiveServer):
    """Checklist 12, 17, 25, 26, 28, 29 and 31."""
    returned = call(server, "refusals", image=IMAGE)
    invalid = returned["invalid"]
    assert (invalid["kind"], invalid["status"]) == ("ValidationError", 422)
    assert returned["fields"] == [["missing"], ["less_than_equal"], []]
    assert "prompt: Field required" in invalid["message"]
    assert IMAGE[:100] not in str(returned)
    assert DATA_URI[:60] not in str(returned)
    assert returned["broken"]["kind"] == "ValidationError"
    assert returned["broken"]["body"]["detail"][0]["loc"] == ["body", "image_urls", 0]
    assert returned["broken"]["message"] not in ("", "Unprocessable Entity")
    assert (returned["unknown"]["kind"], returned["unknown"]["status"]) == ("ApiError", 404)
    assert "no-such-model" in returned["unknown"]["message"]
    assert (returned["inStream"]["kind"], returned["inStream"]["status"]) == ("ValidationError", 422)
    assert returned["ofNoJob"]["status"] == 404
    assert all(returned[each]["requestId"] for each in ("invalid", "broken", "unknown", "inStream", "ofNoJob"))


def test_a_wrong_key_is_refused_once_and_another_key_sees_nothing(idle_server: LiveServer, hands: Hands):
    """Checklist 17 and 18."""
    secret = Keys(hands.database).create("other")
    returned = call(idle_server, "wrongKeys", input=arguments(), other=secret)
    assert (returned["error"]["kind"], returned["error"]["status"]) == ("ApiError", 401)
    assert returned["error"]["message"]
    assert returned["sent"] == 1
    assert returned["unseen"]["status"] == 404


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
    returned = call(server, "clientModeStream", image=IMAGE)
    assert returned["seeds"] == [3, 3]
    assert returned["forged"]["status"] == 401


def test_a_conversation_over_the_realtime_socket(server: LiveServer):
    """Checklist 49: recipe 16.8, with a token; an error does not end it."""
    returned = call(server, "realtime", image=IMAGE)
    assert [each["seed"] for each in returned["results"]] == [4, 5]
    assert returned["results"][0]["url"].startswith("data:image/png")
    (error,) = returned["errors"]
    assert (error["kind"], error["status"]) == ("ApiError", 400)
    assert "image_url" in error["message"]


def test_the_vendors_own_proxy_in_between(server: LiveServer):
    """Recipe 16.9, with the Express adapter: run, subscribe, stream and a small upload."""
    assert call(server, "theirProxy", image=IMAGE) == [5, 5, 5]
