"""The reseller shape: fal's queue at the root, with `Bearer`, as callers of such gateways poll it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from retouch.errors import Failure
from tests.live_server import LiveServer
from tests.sdk.fal import PLUS, TWO, Hands, arguments, uploads
from tests.waiting import until

KEYS = {
    "status",
    "request_id",
    "response_url",
    "status_url",
    "cancel_url",
    "logs",
    "metrics",
    "queue_position",
}


USAGE_KEYS = {
    "object",
    "name",
    "total_granted",
    "total_used",
    "total_available",
    "unlimited_quota",
    "model_limits",
    "model_limits_enabled",
    "expires_at",
}


@pytest.fixture(scope="module")
def server(idle_server: LiveServer) -> LiveServer:
    return idle_server


@pytest.fixture
def hands(server: LiveServer) -> Iterator[Hands]:
    made = Hands(server.data)
    yield made
    made.close()


def ask(server: LiveServer, method: str, path: str, scheme: str = "Bearer", **more: Any) -> httpx.Response:
    headers = {"Authorization": f"{scheme} {server.key}"}
    return httpx.request(method, server.url + path, headers=headers, timeout=30, **more)


def test_a_submit_answers_with_the_eight_keys(server: LiveServer, hands: Hands):
    """Reseller checklist 40: a pasted `sk-` before the key does no harm."""
    for scheme in ("Bearer", "Bearer sk-"):
        headers = {"Authorization": f"{scheme} {server.key}".replace("- ", "-")}
        body = arguments(PLUS, image_size="portrait_3_4", guidance_scale=4, num_inference_steps=8)
        answer = httpx.post(f"{server.url}/{PLUS}", json=body, headers=headers)
        assert answer.status_code == 200
        assert set(answer.json()) == KEYS
        assert answer.json()["status_url"].startswith(f"{server.url}/{PLUS}/requests/")
        assert answer.headers["x-oneapi-request-id"] == answer.json()["request_id"]
        hands.finish(hands.lease())


def test_a_caller_who_polls_the_result(server: LiveServer, hands: Hands):
    """Reseller checklist 41: a status until it is done, held for a moment; then no status."""
    request_id = ask(server, "POST", f"/{TWO}", json=arguments(TWO)).json()["request_id"]
    began = time.monotonic()
    waiting = ask(server, "GET", f"/fal-ai/auto/requests/{request_id}")
    assert time.monotonic() - began > 1
    assert (waiting.status_code, waiting.json()["status"]) == (200, "IN_QUEUE")
    lease = hands.lease()
    running = ask(server, "GET", f"/fal-ai/qwen-image-2/requests/{request_id}")
    assert running.json()["status"] == "IN_QUEUE"
    hands.finish(lease)
    done = ask(server, "GET", f"/fal-ai/auto/requests/{request_id}").json()
    assert done["images"][0]["url"]
    assert "status" not in done


def test_a_caller_who_polls_the_status(server: LiveServer, hands: Hands):
    """Reseller checklist 42."""
    made = ask(server, "POST", f"/{PLUS}", json=arguments(PLUS)).json()
    path = httpx.URL(made["status_url"]).path
    assert ask(server, "GET", path).status_code == 202
    hands.finish(hands.lease())
    done = until(lambda: (a := ask(server, "GET", path)).status_code == 200 and a).json()
    assert done["status"] == "COMPLETED"
    assert done["images"][0]["url"]
    assert "enable_safety_checker" in [notice["parameter"] for notice in done["notices"]]
    assert "images" not in ask(server, "GET", path, "Key").json()
    other = ask(server, "POST", f"/{PLUS}", json=arguments(PLUS)).json()
    assert ask(server, "PUT", httpx.URL(other["cancel_url"]).path).status_code == 202
    ended = ask(server, "GET", httpx.URL(other["response_url"]).path)
    assert ended.status_code == 499
    assert "status" not in ended.json()


def test_a_failed_edit_is_never_a_success(server: LiveServer, hands: Hands):
    """Reseller checklist 41: a caller in a loop must see the end of it."""
    request_id = ask(server, "POST", f"/{PLUS}", json=arguments(PLUS)).json()["request_id"]
    hands.service.fail(hands.lease(), Failure("invalid_image", "It is cut off.", "images[0]"))
    answer = ask(server, "GET", f"/fal-ai/auto/requests/{request_id}")
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "image_urls", 0]
    assert isinstance(answer.json()["error"], str)


def test_a_submit_that_makes_no_job_leaves_no_upload(server: LiveServer, hands: Hands):
    before = uploads(server)
    headers = {"Authorization": f"Bearer {server.key}", "Idempotency-Key": "reseller"}
    for _ in range(3):
        assert httpx.post(f"{server.url}/{PLUS}", json=arguments(PLUS, seed=1), headers=headers).status_code == 200
    assert ask(server, "POST", f"/{PLUS}?fal_max_queue_length=0", json=arguments(PLUS)).status_code == 429
    assert len(uploads(server) - before) == 1
    hands.finish(hands.lease())


def test_fals_own_rules_hold_for_fals_own_scheme(server: LiveServer, hands: Hands):
    made = ask(server, "POST", f"/{PLUS}", "Key", json=arguments(PLUS)).json()
    early = ask(server, "GET", httpx.URL(made["response_url"]).path, "Key")
    assert early.status_code == 400
    hands.finish(hands.lease())


def test_errors_have_both_shapes(server: LiveServer):
    bad = httpx.post(f"{server.url}/{PLUS}", json=arguments(PLUS), headers={"Authorization": "Bearer no"})
    assert bad.status_code == 401
    assert bad.json()["error"]["type"] == "new_api_error"
    assert isinstance(bad.json()["detail"], str)
    assert ask(server, "GET", "/fal-ai/auto/requests/none").status_code == 404
    assert ask(server, "POST", "/fal-ai/nothing", json={}).status_code == 404
    assert ask(server, "POST", f"/{PLUS}", json={}).json()["detail"][0]["type"] == "missing"


def test_what_a_key_has_used(server: LiveServer, hands: Hands):
    """Reseller checklist 43."""
    for path in ("/api/usage/token/", "/api/usage/token"):
        answer = ask(server, "GET", path).json()
        assert (answer["code"], answer["message"]) == (True, "ok")
        data = answer["data"]
        assert data.keys() == USAGE_KEYS
        assert data["object"] == "token_usage"
        assert data["name"] == "test"
        assert data["total_granted"] == data["total_used"] + data["total_available"]
    refused = httpx.get(f"{server.url}/api/usage/token/", headers={"Authorization": "Bearer no"})
    assert refused.status_code == 401
    assert refused.json()["message"]
