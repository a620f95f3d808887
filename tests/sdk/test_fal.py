"""The vendor's own Python client, unmodified, against a live server.

The client is pointed here by its module's address constants. Where a state must stand still to be looked
at, the server has no worker and the test leases the job itself, through the same service a worker uses.
"""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fal_client
import httpx
import numpy as np
import pytest
from PIL import Image

from retouch.errors import Failure
from retouch.jobs.job import Preview
from tests.live_server import LiveServer
from tests.sdk.fal import (
    DATA_URI,
    EDIT,
    HEADER,
    PLUS,
    TWO,
    Hands,
    arguments,
    call,
    closed_client,
    hands_at,
    image_at,
    photo,
    pointed_at,
    uploads,
)
from tests.waiting import until

NO_FASTER_WAY = "There is no faster way here yet: the exact one, 'none', was used."


@pytest.fixture
def client(server: LiveServer) -> Iterator[fal_client.SyncClient]:
    with pointed_at(server) as made:
        yield made


@pytest.fixture
def idle(idle_server: LiveServer) -> Iterator[fal_client.SyncClient]:
    with pointed_at(idle_server) as made:
        yield made


@pytest.fixture
def hands(idle_server: LiveServer) -> Iterator[Hands]:
    with hands_at(idle_server) as made:
        yield made


# --- run


@pytest.mark.parametrize(
    ("endpoint", "keys"),
    [
        (EDIT, ["images", "timings", "seed", "has_nsfw_concepts", "prompt"]),
        (PLUS, ["images", "timings", "seed", "has_nsfw_concepts", "prompt"]),
        (TWO, ["images", "seed"]),
    ],
)
def test_run_answers_with_the_bare_output(client: fal_client.SyncClient, endpoint: str, keys: list[str]):
    """Checklist 1 and 43: the vendor's members, and ours behind them."""
    result = client.run(endpoint, arguments(endpoint, image_size={"width": 640, "height": 512}))
    assert list(result) == [*keys, "notices"]
    (image,) = result["images"]
    assert image["content_type"] == "image/png"
    assert image["file_size"] > 0
    assert image_at(image["url"]).size == (640, 512)


def test_a_run_has_a_request_id_and_says_what_was_not_done(server: LiveServer):
    """Checklist 1 and 42."""
    answer = call(server, "POST", f"/run/{EDIT}", json=arguments())
    assert answer.status_code == 200
    assert answer.headers[HEADER]
    assert "num_inference_steps" in answer.headers["x-retouch-notices"]
    assert json.loads(answer.headers["x-retouch-notices"]) == answer.json()["notices"]
    size = answer.json()["images"][0]
    assert float(answer.headers["x-fal-billable-units"]) == pytest.approx(size["width"] * size["height"] / 1e6)


def test_a_caller_who_wants_all_as_it_is_gets_no_notices(client: fal_client.SyncClient):
    size = {"width": 288, "height": 224}
    result = client.run(EDIT, arguments(enable_safety_checker=False, num_inference_steps=4, image_size=size))
    assert "notices" not in result
    assert result["has_nsfw_concepts"] == [False]


def test_the_vendors_own_snippet_prints_what_was_not_done(
    idle: fal_client.SyncClient, hands: Hands, capsys: pytest.CaptureFixture[str]
):
    """It prints the log lines of updates while the edit runs, and no other."""
    printed: list[str] = []

    def on_queue_update(update: fal_client.Status) -> None:
        if isinstance(update, fal_client.InProgress):
            for log in update.logs or []:
                print(log["message"])
                printed.append(log["message"])

    with ThreadPoolExecutor(1) as pool:
        body = arguments(PLUS, acceleration="high")
        done = pool.submit(lambda: idle.subscribe(PLUS, body, with_logs=True, on_queue_update=on_queue_update))
        lease = until(lambda: hands.service.lease("hands", ["null"], 60))
        until(lambda: printed)
        hands.finish(lease)
        result = done.result(20)
    assert "acceleration converted: There is no faster way here yet" in capsys.readouterr().out
    assert "acceleration" in [notice["parameter"] for notice in result["notices"]]


def test_seeds_are_echoed_repeated_and_made_up(client: fal_client.SyncClient):
    """Checklist 44."""
    first, second = (client.run(EDIT, arguments(seed=42, num_images=2)) for _ in range(2))
    assert first["seed"] == second["seed"] == 42
    assert len(first["images"]) == len(first["has_nsfw_concepts"]) == 2
    files = [httpx.get(each["images"][0]["url"]).content for each in (first, second)]
    assert files[0] == files[1]
    assert 0 <= client.run(EDIT, arguments())["seed"] < 2**31


@pytest.mark.parametrize(("format_", "expected"), [("jpeg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")])
def test_output_formats(client: fal_client.SyncClient, format_: str, expected: str):
    """Checklist 43."""
    result = client.run(TWO, arguments(TWO, output_format=format_))
    assert image_at(result["images"][0]["url"]).format == expected


def test_without_a_size_the_answer_follows_the_input(client: fal_client.SyncClient):
    """Checklist 43: in shape, or in size, or not at all, as each endpoint says."""
    uri = fal_client.encode(photo(600, 400), "image/png")
    last = fal_client.encode(photo(500, 800), "image/png")
    sizes = {
        EDIT: client.run(EDIT, arguments(image_url=uri)),
        PLUS: client.run(PLUS, arguments(PLUS, image_urls=[uri])),
        TWO: client.run(TWO, arguments(TWO, image_urls=[uri, last])),
    }
    found = {name: image_at(result["images"][0]["url"]).size for name, result in sizes.items()}
    assert found[EDIT][0] / found[EDIT][1] == pytest.approx(1.5, rel=0.05)
    assert found[PLUS] == (1024, 1024)
    assert found[TWO] == (500, 800)


def test_an_image_beyond_the_models_limits(client: fal_client.SyncClient):
    """Checklist 26 and 43."""
    uri = fal_client.encode(photo(5001, 400), "image/png")
    with pytest.raises(fal_client.FalClientHTTPError) as refused:
        client.run(TWO, arguments(TWO, image_urls=[DATA_URI, uri]))
    (problem,) = refused.value.message
    assert (problem["loc"], problem["type"]) == (["body", "image_urls", 1], "image_too_large")
    assert problem["ctx"] == {"max_width": 5000, "max_height": 5000}


def test_an_image_smaller_than_advised_is_taken_and_reported(server: LiveServer):
    """Checklist 43: the hosted model wants 384 pixels a side; nothing here does."""
    body = arguments(TWO, image_urls=[fal_client.encode(photo(200, 100), "image/png")])
    answer = call(server, "POST", f"/run/{TWO}", json=body)
    assert answer.status_code == 200
    assert "image_urls.0" in answer.headers["x-retouch-notices"]


def test_sync_mode_answers_inline_and_keeps_nothing(server: LiveServer):
    """Checklist 42 and 45."""
    before = set((server.data / "files").rglob("*.*"))
    answer = call(server, "POST", f"/run/{EDIT}", json=arguments(sync_mode=True, prompt="inline"))
    url = answer.json()["images"][0]["url"]
    assert url.startswith("data:image/png;base64,")
    assert image_at(url).size[0] > 0
    request_id = answer.headers[HEADER]
    gone = until(lambda: call(server, "GET", f"/queue/{EDIT}/requests/{request_id}").status_code == 404)
    assert gone
    until(lambda: set((server.data / "files").rglob("*.*")) <= before)


def test_a_payload_that_must_not_be_kept_is_gone_after_delivery(client: fal_client.SyncClient, server: LiveServer):
    """Checklist 45: neither the answer nor a file, the caller's own image included."""
    before = set((server.data / "files").rglob("*.*"))
    handle = client.submit(EDIT, arguments(prompt="secret"), headers={"X-Fal-Store-IO": "0"})
    assert handle.get()["prompt"] == "secret"
    until(lambda: httpx.get(handle.response_url).status_code == 404)
    assert httpx.get(handle.status_url).json()["status"] == "COMPLETED"
    until(lambda: set((server.data / "files").rglob("*.*")) <= before)


def test_files_live_as_long_as_was_asked(server: LiveServer):
    """Checklist 45."""
    header = {"X-Fal-Object-Lifecycle-Preference": '{"expiration_duration_seconds": 2}'}
    link = call(server, "POST", f"/run/{EDIT}", json=arguments(), headers=header).json()["images"][0]["url"]
    assert httpx.get(link).status_code == 200
    until(lambda: httpx.get(link).status_code == 404)


def test_the_input_may_be_a_query_string(server: LiveServer):
    """Checklist 1: `run(method="get")`."""
    link = call(server, "POST", f"/run/{EDIT}", json=arguments()).json()["images"][0]["url"]
    answer = call(server, "GET", f"/run/{PLUS}", params={"prompt": "p", "image_urls": [link], "seed": "5"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["seed"] == 5


@pytest.mark.parametrize(("suffix", "begun"), [("", False), ("", True), ("/stream", True)])
def test_a_caller_who_hangs_up_cancels_the_edit(idle_server: LiveServer, hands: Hands, suffix: str, *, begun: bool):
    """Checklist 14; spec section 8: before and after the first step, and of a stream that has begun."""
    with socket.create_connection(("127.0.0.1", idle_server.port), timeout=20) as raw:
        body = httpx.Request("POST", "http://x", json=arguments()).content
        head = f"POST /fal/run/{EDIT}{suffix} HTTP/1.1\r\nHost: x\r\nAuthorization: Key {idle_server.key}\r\n"
        raw.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        lease = until(lambda: hands.service.lease("hands", ["null"], 60))
        if begun:
            hands.service.progress(lease, step=1, steps=4)
        if suffix:
            assert raw.recv(1000).startswith(b"HTTP/1.1 200")
    until(lambda: hands.service.renew(lease, 60))
    assert hands.service.acknowledge_cancel(lease).state == "cancelled"


# --- queue


def test_subscribe_sees_logs_and_gets_the_result(client: fal_client.SyncClient):
    """Checklist 2, 6, 7 and 9."""
    seen: list[fal_client.Status] = []
    result = client.subscribe(EDIT, arguments(), with_logs=True, on_queue_update=seen.append)
    assert image_at(result["images"][0]["url"]).size[0] > 0
    assert isinstance(seen[-1], fal_client.Completed)
    assert seen[-1].metrics["inference_time"] >= 0
    assert isinstance(seen[-1].logs, list)


def test_the_submit_answer_is_the_documented_one(idle_server: LiveServer, idle: fal_client.SyncClient, hands: Hands):
    """Checklist 2 and 3."""
    for endpoint, app in ((EDIT, EDIT), (PLUS, PLUS), (TWO, "fal-ai/qwen-image-2")):
        answer = call(idle_server, "POST", f"/queue/{endpoint}", json=arguments(endpoint))
        body = answer.json()
        assert answer.status_code == 200
        base = f"{idle_server.url}/fal/queue/{app}/requests/{body['request_id']}"
        assert body["response_url"] == base
        assert body["status_url"] == f"{base}/status"
        assert body["cancel_url"] == f"{base}/cancel"
        assert body["status"] == "IN_QUEUE"
        assert isinstance(body["queue_position"], int)
        assert body["logs"] is None
        assert body["metrics"] == {}
        handle = idle.get_handle(endpoint, body["request_id"])
        assert (handle.response_url, handle.status_url) == (body["response_url"], body["status_url"])
        assert handle.cancel_url == body["cancel_url"]
    submitted = idle.submit(TWO, arguments(TWO))
    assert idle.get_handle(TWO, submitted.request_id) == submitted


def test_status_walks_through_three_words(idle_server: LiveServer, idle: fal_client.SyncClient, hands: Hands):
    """Checklist 6, 7, 8, 9, 10 and 11."""
    handle = idle.submit(TWO, arguments(TWO))
    queued = idle.status(TWO, handle.request_id)
    assert isinstance(queued, fal_client.Queued)
    assert queued.position == 0
    early = call(idle_server, "GET", f"/queue/{TWO}/requests/{handle.request_id}")
    assert (early.status_code, early.json()["detail"]) == (400, "Request is still in progress")

    lease = hands.lease()
    running = until(lambda: is_running(handle.status(with_logs=True)))
    assert running.logs == []
    hands.service.progress(lease, step=1, steps=4, logs=["warming up"])
    hands.service.progress(lease, step=2, steps=4)
    messages = until(lambda: len(found := messages_of(handle.status(with_logs=True))) >= 3 and found)
    assert messages == ["warming up", "Step 1 of 4", "Step 2 of 4"]
    assert until(lambda: is_running(handle.status())).logs is None

    hands.finish(lease)
    done = until(lambda: is_completed(handle.status(with_logs=True)))
    assert done.metrics == {"inference_time": 0.5}
    assert [entry["message"] for entry in done.logs or []][:3] == messages
    bodies = [call(idle_server, "GET", f"/queue/{TWO}/requests/{handle.request_id}").json() for _ in range(2)]
    assert bodies[0] == bodies[1] == idle.result(TWO, handle.request_id)


@pytest.mark.parametrize(
    ("query", "logs_wanted"),
    [("?logs=true", True), ("?logs=1", True), ("?logs=false", False), ("?logs=0", False), ("", False)],
)
def test_logs_are_reported_when_they_are_asked_for(server: LiveServer, query: str, logs_wanted: bool):
    """Checklist 6 and 7: both clients' words; the key is there either way."""
    request_id = call(server, "POST", f"/run/{EDIT}", json=arguments()).headers[HEADER]
    status = call(server, "GET", f"/queue/{EDIT}/requests/{request_id}/status{query}").json()
    assert isinstance(status["logs"], list) is logs_wanted
    assert logs_wanted or status["logs"] is None


def is_running(status: Any) -> Any:
    return status if isinstance(status, fal_client.InProgress) else None


def is_completed(status: Any) -> Any:
    return status if isinstance(status, fal_client.Completed) else None


def messages_of(status: Any) -> list[str]:
    return [entry["message"] for entry in status.logs or []]


@pytest.mark.parametrize("form", ["/status", "/status/", "", "/", "/response", "/response/"])
def test_every_form_of_a_request_path_is_answered_directly(server: LiveServer, form: str):
    """Checklist 50."""
    request_id = call(server, "POST", f"/run/{TWO}", json=arguments(TWO)).headers[HEADER]
    for base in ("fal-ai/qwen-image-2", TWO):
        answer = call(server, "GET", f"/queue/{base}/requests/{request_id}{form}")
        assert answer.status_code == 200, answer.text
        assert answer.headers[HEADER] == request_id


def test_cancelling_a_waiting_request(idle_server: LiveServer, idle: fal_client.SyncClient, hands: Hands):
    """Checklist 13, 15 and 16."""
    handle = idle.submit(EDIT, arguments())
    path = f"/queue/{EDIT}/requests/{handle.request_id}"
    answer = call(idle_server, "PUT", f"{path}/cancel", headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()) == (202, {"status": "CANCELLATION_REQUESTED"})
    assert hands.service.lease("hands", ["null"], 60) is None
    until(lambda: is_completed(handle.status()))
    with pytest.raises(fal_client.FalClientHTTPError) as refused:
        handle.get()
    assert refused.value.status_code == 499
    assert refused.value.error_type == "client_cancelled"
    again = call(idle_server, "PUT", f"{path}/cancel/")
    assert (again.status_code, again.json()["status"]) == (400, "ALREADY_COMPLETED")
    unknown = call(idle_server, "PUT", f"/queue/{EDIT}/requests/none/cancel")
    assert (unknown.status_code, unknown.json()["status"]) == (404, "NOT_FOUND")


def test_cancelling_a_running_request(idle: fal_client.SyncClient, hands: Hands):
    """Checklist 14."""
    handle = idle.submit(EDIT, arguments())
    lease = hands.lease()
    handle.cancel()
    assert hands.service.progress(lease, step=1, steps=4) is True
    hands.service.acknowledge_cancel(lease)
    status = until(lambda: is_completed(handle.status()))
    assert status.error_type == "client_cancelled"
    with pytest.raises(fal_client.FalClientHTTPError) as refused:
        handle.get()
    assert refused.value.status_code == 499


def test_a_failed_edit_is_completed_with_an_error(idle: fal_client.SyncClient, hands: Hands):
    """Checklist 12."""
    handle = idle.submit(PLUS, arguments(PLUS))
    failure = Failure("invalid_image", "The image in 'images[0]' is cut off.", "images[0]")
    hands.service.fail(hands.lease(), failure)
    status = until(lambda: is_completed(handle.status()))
    assert status.error == "The image in 'image_urls.0' is cut off."
    assert status.error_type == "image_load_error"
    with pytest.raises(fal_client.FalClientHTTPError) as refused:
        handle.get()
    assert refused.value.status_code == 422
    assert refused.value.message[0]["loc"] == ["body", "image_urls", 0]
    assert refused.value.error_type == "image_load_error"


def test_a_request_that_did_not_start_in_time(idle_server: LiveServer, idle: fal_client.SyncClient, hands: Hands):
    """Checklist 19."""
    headers = {"X-Fal-Request-Timeout": "0.2"}
    late = call(idle_server, "POST", f"/queue/{EDIT}", json=arguments(), headers=headers).json()["request_id"]
    result = until(lambda: (a := call(idle_server, "GET", f"/queue/{EDIT}/requests/{late}")).status_code != 400 and a)
    assert result.status_code == 504
    assert result.headers["x-fal-request-timeout-type"] == "user"
    assert result.json()["error_type"] == "request_timeout"
    started = call(idle_server, "POST", f"/queue/{EDIT}", json=arguments(), headers={"X-Fal-Request-Timeout": "30"})
    hands.finish(hands.lease())
    assert idle.result(EDIT, started.json()["request_id"])["images"]


def test_a_run_that_did_not_start_in_time(idle_server: LiveServer, hands: Hands):
    """Checklist 19."""
    answer = call(idle_server, "POST", f"/run/{EDIT}", json=arguments(), headers={"X-Fal-Request-Timeout": "0.2"})
    assert (answer.status_code, answer.headers["x-fal-request-timeout-type"]) == (504, "user")


def test_low_priority_waits_behind_normal(idle: fal_client.SyncClient, hands: Hands):
    """Checklist 21."""
    low = idle.submit(EDIT, arguments(), priority="low")
    normal = idle.submit(EDIT, arguments(), priority="normal")
    assert until(lambda: (s := low.status()).position == 1 and s)
    assert [hands.lease().job.id for _ in range(2)] == [normal.request_id, low.request_id]


def test_a_queue_may_be_too_long_for_a_caller(idle_server: LiveServer, idle: fal_client.SyncClient, hands: Hands):
    """Checklist 23."""
    path = f"/queue/{EDIT}?fal_max_queue_length=0"
    first = call(idle_server, "POST", path, json=arguments())
    assert first.status_code == 200
    second = call(idle_server, "POST", path, json=arguments())
    assert second.status_code == 429
    assert second.headers["x-fal-needs-retry"] == "1"
    assert second.json()["error_type"] == "concurrent_requests_limit"


def test_an_idempotency_key_joins_the_request_it_repeats(idle_server: LiveServer, hands: Hands):
    """A key on every submit."""
    headers = {"Idempotency-Key": "one"}
    body = arguments(seed=1)
    ids = {call(idle_server, "POST", f"/queue/{EDIT}", json=body, headers=headers).json()["request_id"] for _ in "12"}
    assert len(ids) == 1
    other = call(idle_server, "POST", f"/queue/{EDIT}", json=arguments(seed=2), headers=headers)
    assert (other.status_code, other.json()["error_type"]) == (400, "bad_request")


def test_a_submit_that_makes_no_job_leaves_no_upload(idle_server: LiveServer, hands: Hands):
    """Repeats by idempotency key, the same key with another body, and a queue that is full."""
    before = uploads(idle_server)
    body, headers = arguments(seed=1), {"Idempotency-Key": "uploads"}
    ids = {call(idle_server, "POST", f"/queue/{EDIT}", json=body, headers=headers).json()["request_id"] for _ in "123"}
    assert len(ids) == 1
    assert len(uploads(idle_server) - before) == 1
    assert call(idle_server, "POST", f"/queue/{EDIT}", json=arguments(seed=2), headers=headers).status_code == 400
    full = call(idle_server, "POST", f"/queue/{EDIT}?fal_max_queue_length=0", json=arguments())
    assert full.status_code == 429
    two = arguments(PLUS, image_urls=[DATA_URI, "data:image/png;base64,AAAA"])
    assert call(idle_server, "POST", f"/queue/{PLUS}", json=two).status_code == 422
    assert len(uploads(idle_server) - before) == 1


def test_fifty_subscribers_at_the_default_interval(client: fal_client.SyncClient, server: LiveServer):
    """Checklist 34: no caller is refused, and each gets a result."""
    with ThreadPoolExecutor(50) as pool:
        results = list(pool.map(lambda n: client.subscribe(EDIT, arguments(seed=n)), range(50)))
    assert [result["seed"] for result in results] == list(range(50))
    assert "status=429" not in server.log()


# --- keys


def test_a_bad_key_is_refused_once(idle_server: LiveServer, idle: fal_client.SyncClient):
    """Checklist 18."""
    sent: list[httpx.Request] = []
    with closed_client("nonsense") as stranger:
        stranger._client.event_hooks = {"request": [sent.append]}
        with pytest.raises(fal_client.FalClientHTTPError) as refused:
            stranger.submit(EDIT, arguments())
    assert refused.value.status_code == 401
    assert isinstance(refused.value.message, str)
    assert len(sent) == 1
    bare = httpx.post(f"{idle_server.url}/fal/queue/{EDIT}", json=arguments())
    assert bare.status_code == 401
    bearer = httpx.get(
        f"{idle_server.url}/fal/queue/{EDIT}/requests/x", headers={"Authorization": f"Bearer {idle_server.key}"}
    )
    assert bearer.status_code == 404


def test_another_keys_request_does_not_exist(idle_server: LiveServer, hands: Hands):
    """Checklist 17."""
    from retouch.accounts.keys import Keys

    other = Keys(hands.database).create("another caller")
    theirs = {"Authorization": f"Key {other}"}
    mine = call(idle_server, "POST", f"/queue/{EDIT}", json=arguments()).json()["request_id"]
    for form in ("", "/status", "/status/stream"):
        path = f"/queue/{EDIT}/requests/{mine}{form}"
        answer = call(idle_server, "GET", path, headers=theirs)
        assert (answer.status_code, answer.json()["status"]) == (404, "NOT_FOUND")
        assert call(idle_server, "GET", path.replace(mine, "no-such-id")).status_code == 404
    cancel = call(idle_server, "PUT", f"/queue/{EDIT}/requests/{mine}/cancel", headers=theirs)
    assert (cancel.status_code, cancel.json()["status"]) == (404, "NOT_FOUND")
    assert call(idle_server, "GET", f"/queue/{EDIT}/requests/{mine}/status").json()["status"] == "IN_QUEUE"


# --- errors


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/run/fal-ai/nothing", 404),
        ("POST", "/queue/fal-ai/nothing", 404),
        ("GET", "/nowhere", 404),
        ("GET", "/queue/fal-ai/qwen-image-edit/requests/1/explode", 404),
        ("DELETE", "/queue/fal-ai/qwen-image-edit", 405),
        ("GET", "/run/fal-ai/qwen-image-edit", 405),
        ("POST", "/queue/fal-ai/qwen-image-edit/requests/1/status", 405),
        ("GET", "/queue/fal-ai/qwen-image-edit/requests/1/cancel", 405),
        ("TRACE", "/queue/fal-ai/qwen-image-edit", 405),
    ],
)
def test_errors_have_the_same_shape_on_every_path(server: LiveServer, method: str, path: str, status: int):
    """Checklist 29 and 30."""
    answer = call(server, method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["detail"]
    assert answer.json()["message"]
    assert answer.headers[HEADER]


@pytest.mark.parametrize("face", ["run", "queue"])
@pytest.mark.parametrize(
    ("content", "field"),
    [
        (b"", "prompt"),
        (b"{}", "prompt"),
        (b"{", 1),
        (b"[]", "body"),
        (b'{"prompt": "p", "image_url": 5}', "image_url"),
        (b'{"prompt": "p", "image_url": "not a link"}', "image_url"),
        (b'{"prompt": "p", "image_url": "data:image/png;base64,AAAA"}', "image_url"),
        (b'{"prompt": "p", "image_url": "data:image/png;base64,%%%"}', "image_url"),
        (b'{"prompt": "  ", "image_url": "https://example.com/a.png"}', "prompt"),
        (b'{"prompt": "p", "image_url": "https://example.com/a.png", "num_images": 9}', "num_images"),
    ],
)
def test_a_bad_body_is_refused_before_anything_is_queued(server: LiveServer, face: str, content: bytes, field: str):
    """Checklist 25, 26 and 27."""
    answer = call(server, "POST", f"/{face}/{EDIT}", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"][0]["loc"][-1] == field
    assert answer.headers[HEADER]


def test_the_client_raises_with_the_documented_detail(client: fal_client.SyncClient):
    """Checklist 25 and 28."""
    with pytest.raises(fal_client.FalClientHTTPError) as refused:
        client.submit(EDIT, {"image_url": DATA_URI})
    assert refused.value.status_code == 422
    assert refused.value.message[0]["loc"] == ["body", "prompt"]
    assert refused.value.message[0]["type"] == "missing"


def test_no_data_uri_comes_back_in_an_error(server: LiveServer):
    """Checklist 28."""
    for body in (
        arguments(output_format=DATA_URI),
        {"prompt": DATA_URI},
        arguments(**{DATA_URI: 1}),
        arguments(image_size=DATA_URI),
        {"prompt": "p", "image_url": "data:image/png;base64," + "A" * 5000},
    ):
        answer = call(server, "POST", f"/queue/{EDIT}", json=body)
        assert answer.status_code == 422
        assert len(answer.content) < 2000


@pytest.mark.parametrize("header", ["soon", "0", "-3"])
def test_a_deadline_that_is_no_number_is_a_bad_request(server: LiveServer, header: str):
    """Checklist 20."""
    answer = call(server, "POST", f"/queue/{EDIT}", json=arguments(), headers={"X-Fal-Request-Timeout": header})
    assert (answer.status_code, answer.json()["error_type"]) == (400, "bad_request")


def test_a_look_at_the_head_starts_nothing_and_ends_nothing(server: LiveServer):
    queued = call(server, "POST", f"/queue/{EDIT}", json=arguments(sync_mode=True)).json()
    path = f"/queue/{EDIT}/requests/{queued['request_id']}"
    until(lambda: call(server, "GET", f"{path}/status").status_code == 200)
    assert call(server, "HEAD", path).status_code == 200
    assert call(server, "GET", path).json()["images"][0]["url"].startswith("data:")
    assert call(server, "HEAD", f"/run/{EDIT}?prompt=p&image_url=x").status_code == 405


def test_unknown_headers_change_nothing(server: LiveServer):
    """Checklist 5, 22 and 24."""
    headers = {
        "x-fal-target-url": "https://queue.fal.run/fal-ai/nothing",
        "x-fal-queue-priority": "normal",
        "X-Fal-Retry-Config": "{}",
        "X-Fal-Brand-New": "yes",
        "x-app-fal-disable-fallback": "true",
        "X-Fal-Runner-Hint": "h1",
    }
    assert call(server, "POST", f"/queue/{EDIT}", json=arguments(), headers=headers).status_code == 200


def test_a_link_to_a_private_address_fails_the_edit_with_a_download_error(client: fal_client.SyncClient):
    """Checklist 41."""
    with pytest.raises(fal_client.FalClientHTTPError) as refused:
        client.run(EDIT, {"prompt": "p", "image_url": "http://127.0.0.1:9/a.png"})
    assert refused.value.status_code == 422
    assert refused.value.message[0]["type"] == "file_download_error"


def test_a_large_data_uri_is_read(client: fal_client.SyncClient):
    """Checklist 41: 20 MB and more."""
    noise = np.random.default_rng(1).integers(0, 255, (2400, 3000, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "PNG", compress_level=0)
    assert len(out.getvalue()) > 20_000_000
    uri = fal_client.encode(out.getvalue(), "image/png")
    assert client.run(EDIT, arguments(image_url=uri))["images"]


def test_a_body_above_the_limit_is_refused_without_reading_it(server: LiveServer):
    """Checklist 41."""
    answer = call(server, "POST", f"/queue/{EDIT}", content=b" " * (65 * 1024 * 1024))
    assert answer.status_code == 413
    assert answer.json()["error_type"] == "bad_request"


# --- streams


def test_a_stream_ends_with_the_output(client: fal_client.SyncClient):
    """Checklist 31."""
    events = list(client.stream(EDIT, arguments(num_images=2)))
    assert len(events[-1]["images"]) == 2
    assert all(event.get("partial") for event in events[:-1])


def test_a_stream_of_an_impossible_edit_is_an_error_of_its_own(server: LiveServer):
    """Checklist 31: before the start, errors are JSON with the right status."""
    assert call(server, "POST", f"/run/{EDIT}/stream", json={}).status_code == 422
    body = arguments(image_url="http://127.0.0.1:9/a.png")
    answer = call(server, "POST", f"/run/{EDIT}/stream", json=body)
    assert (answer.status_code, answer.json()["detail"][0]["type"]) == (422, "file_download_error")


def test_a_stream_shows_the_image_getting_clearer(idle: fal_client.SyncClient, hands: Hands):
    """Checklist 31."""
    with ThreadPoolExecutor(1) as pool:
        events = pool.submit(lambda: list(idle.stream(EDIT, arguments())))
        lease = until(lambda: hands.service.lease("hands", ["null"], 60))
        preview = hands.blobs.put(photo(64, 48, "JPEG"), "image/jpeg", folder="previews", ttl_s=60)
        hands.service.progress(lease, step=1, steps=4)
        hands.service.progress(lease, step=1, steps=4, repeated=True, previews=[Preview(preview, 0, 1)])
        hands.service.progress(lease, step=3, steps=4)
        hands.finish(lease)
        seen = events.result(20)
    partial = next(event for event in seen if event.get("partial") and event["images"])
    assert partial["progress"] == {"step": 1, "steps": 4}
    assert image_at(partial["images"][0]["url"]).size == (64, 48)
    assert seen[-1]["images"][0]["width"] == 512


def test_a_status_stream_tells_each_change_once(idle_server: LiveServer, idle: fal_client.SyncClient, hands: Hands):
    """Checklist 32."""
    handle = idle.submit(EDIT, arguments(acceleration="regular", num_inference_steps=4))
    headers = {"Authorization": f"Key {idle_server.key}"}
    seen: list[dict[str, Any]] = []
    with httpx.stream("GET", f"{handle.status_url}/stream?logs=1", headers=headers, timeout=20) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = (line for line in answer.iter_lines() if line.startswith("data: "))
        seen.append(httpx.Response(200, content=next(lines)[6:]).json())
        lease = hands.lease()
        hands.service.progress(lease, step=1, steps=4, logs=["a"])
        hands.service.progress(lease, step=2, steps=4, logs=["b"])
        hands.finish(lease)
        seen += [httpx.Response(200, content=line[6:]).json() for line in lines]
    assert seen[0]["status"] == "IN_QUEUE"
    assert seen[-1]["status"] == "COMPLETED"
    messages = [entry["message"] for event in seen for entry in event["logs"]]
    assert messages[:5] == ["acceleration converted: " + NO_FASTER_WAY, "a", "Step 1 of 4", "b", "Step 2 of 4"]
    assert len(messages) == len(set(messages))
