"""fal's platform API about the requests of a key, over HTTP against a live server; no client of the vendor speaks it.

The server has no worker: the test leases jobs itself, so that each stands in the state it is to be listed in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from retouch.accounts.keys import Keys
from retouch.edit import Lora
from retouch.errors import Failure
from retouch.protocols.fal import dump
from tests.live_server import LiveServer
from tests.sdk.fal import EDIT, PLUS, TWO, Hands, arguments, call, hands_at, photo

LIST = "/api/v1/models/requests/by-endpoint"


@pytest.fixture(scope="module")
def server(idle_server: LiveServer) -> LiveServer:
    return idle_server


@pytest.fixture
def hands(server: LiveServer) -> Iterator[Hands]:
    with hands_at(server) as made:
        yield made


def submit(server: LiveServer, endpoint: str = EDIT, **more: Any) -> str:
    answer = call(server, "POST", f"/queue/{endpoint}", json=arguments(endpoint, **more))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["request_id"])


def listed(server: LiveServer, **query: Any) -> dict[str, Any]:
    answer = call(server, "GET", LIST, params={"endpoint_id": EDIT, **query})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def item(server: LiveServer, request_id: str, endpoint: str = EDIT, **query: Any) -> dict[str, Any]:
    (found,) = listed(server, endpoint_id=endpoint, request_id=request_id, **query)["items"]
    return dict(found)


def finished(server: LiveServer, hands: Hands, endpoint: str = EDIT, **more: Any) -> str:
    request_id = submit(server, endpoint, **more)
    hands.finish(hands.lease())
    return request_id


def test_a_request_is_listed_with_its_times_and_what_its_result_is_answered_with(server: LiveServer, hands: Hands):
    before = datetime.now(UTC)
    request_id = submit(server)
    waiting = item(server, request_id)
    assert waiting == {
        "request_id": request_id,
        "endpoint_id": EDIT,
        "sent_at": waiting["sent_at"],
        "started_at": None,
        "ended_at": None,
        "status_code": None,
        "duration": None,
    }
    lease = hands.lease()
    assert item(server, request_id)["started_at"] is not None
    hands.finish(lease)
    done = item(server, request_id)
    assert done["status_code"] == 200
    sent, started, ended = (datetime.fromisoformat(done[name]) for name in ("sent_at", "started_at", "ended_at"))
    assert before - timedelta(milliseconds=1) <= sent <= started <= ended
    assert done["sent_at"].endswith("Z")
    assert done["duration"] == pytest.approx((ended - sent).total_seconds(), abs=0.002)


def test_payloads_are_reported_when_they_are_asked_for(server: LiveServer, hands: Hands):
    given = {"seed": 7, "image_size": {"width": 320, "height": 256}, "output_format": "jpg", "acceleration": "none"}
    request_id = finished(server, hands, **given, negative_prompt=None)
    assert "json_input" not in item(server, request_id)
    found = item(server, request_id, expand="payloads")
    image = found["json_input"].pop("image_url")
    assert found["json_input"] == {"prompt": "make it snow", **given, "output_format": "jpeg"}
    assert httpx.get(image).content == photo(), "the image that came inside the request"
    result = call(server, "GET", f"/queue/{EDIT}/requests/{request_id}").json()
    assert found["json_output"] == result
    named = finished(server, hands, PLUS, image_size="portrait_9_16")
    body = item(server, named, PLUS, expand="payloads")["json_input"]
    assert body["image_size"] == "portrait_16_9"
    assert len(body["image_urls"]) == 1


def test_loras_are_reported_as_they_were_given(server: LiveServer, hands: Hands):
    """Without the key of the file behind an uploaded one, which no other caller may learn."""
    job = hands.job(submit(server))
    request = replace(job.request, loras=(Lora("someone/style", 0.5, blob="uploads/x.safetensors"),))
    delivery = replace(job.delivery, endpoint="fal-ai/qwen-image-edit-lora", options={dump.FIELDS_OPTION: "loras"})
    body = dump.dump_input(replace(job, request=request, delivery=delivery), [])
    assert body == {"loras": [{"path": "someone/style", "scale": 0.5}]}


def test_a_link_is_reported_as_it_was_given(server: LiveServer, hands: Hands):
    link = "https://example.com/cat.png"
    request_id = submit(server, image_url=link)
    assert item(server, request_id, expand="payloads")["json_input"] == {"prompt": "make it snow", "image_url": link}
    hands.service.fail(hands.lease(), Failure("image_unreachable", "It cannot be reached.", "images[0]"))
    failed = item(server, request_id, expand="payloads")
    assert failed["status_code"] == 422
    assert failed["json_output"]["detail"][0]["loc"] == ["body", "image_url"]


def test_requests_are_found_by_endpoint_time_and_outcome(server: LiveServer, hands: Hands):
    start = datetime.now(UTC).isoformat()
    good = finished(server, hands, TWO)
    bad, broken, gone = (submit(server, TWO) for _ in range(3))
    hands.service.fail(hands.lease(), Failure("image_unreachable", "It cannot be reached.", "images[0]"))
    hands.service.fail(hands.lease(), Failure("internal_error", "A bug."))
    assert call(server, "PUT", f"/queue/fal-ai/qwen-image-2/requests/{gone}/cancel").status_code == 202
    waiting = submit(server, TWO)

    def ids(**query: Any) -> list[str]:
        found = listed(server, **{"endpoint_id": TWO, "start": start, **query})["items"]
        return [each["request_id"] for each in found]

    assert ids() == [waiting, gone, broken, bad, good], "what has not ended, then the latest end"
    assert ids(status="success") == [good]
    assert ids(status="user_error") == [gone, bad]
    assert ids(status="error") == [broken]
    assert ids(endpoint_id=PLUS) == []
    assert set(ids(endpoint_id=f"{PLUS},{TWO}")) == {waiting, gone, broken, bad, good}
    assert ids(endpoint_id=[PLUS, TWO], status="success") == [good]
    assert ids(end=start) == []
    assert ids(start=(datetime.now(UTC) - timedelta(days=1)).date().isoformat(), status="error") == [broken]
    durations = [each["duration"] for each in listed(server, endpoint_id=TWO, start=start, sort_by="duration")["items"]]
    assert durations == [*sorted((each for each in durations if each is not None), reverse=True), None]


def test_a_long_list_comes_in_pages(server: LiveServer, hands: Hands):
    start = datetime.now(UTC).isoformat()
    made = [finished(server, hands, PLUS) for _ in range(5)]
    seen: list[str] = []
    cursor = None
    while True:
        query = {"endpoint_id": PLUS, "start": start, "limit": 2, **({"cursor": cursor} if cursor else {})}
        page = listed(server, **query)
        seen += [each["request_id"] for each in page["items"]]
        cursor = page["next_cursor"]
        assert page["has_more"] == (cursor is not None)
        if cursor is None:
            break
    assert seen == made[::-1]
    assert listed(server, endpoint_id=PLUS, start=start, limit=2)["next_cursor"] == "Mg==", "as the vendor writes it"


def test_another_keys_requests_are_neither_listed_nor_deleted(server: LiveServer, hands: Hands):
    request_id = finished(server, hands)
    headers = {"Authorization": f"Key {Keys(hands.database).create('other')}"}
    assert call(server, "GET", LIST, params={"endpoint_id": EDIT}, headers=headers).json()["items"] == []
    path = f"/api/v1/models/requests/{request_id}/payloads"
    refused = call(server, "DELETE", path, headers=headers)
    assert refused.status_code == 404
    assert refused.json()["error"]["type"] == "not_found"
    assert item(server, request_id, expand="payloads")["json_output"] is not None


def test_deleting_leaves_neither_prompt_nor_images(server: LiveServer, hands: Hands):
    request_id = finished(server, hands)
    found = item(server, request_id, expand="payloads")
    links = [found["json_input"]["image_url"], found["json_output"]["images"][0]["url"]]
    assert [httpx.get(link).status_code for link in links] == [200, 200]
    deleted = call(server, "DELETE", f"/api/v1/models/requests/{request_id}/payloads")
    assert deleted.status_code == 200
    assert deleted.json() == {"cdn_delete_results": [{"link": links[1], "exception": None}]}
    assert [httpx.get(link).status_code for link in links] == [404, 404]
    left = item(server, request_id, expand="payloads")
    assert (left["json_input"], left["json_output"], left["status_code"]) == (None, None, 200)
    assert call(server, "GET", f"/queue/{EDIT}/requests/{request_id}").status_code == 404
    assert call(server, "GET", f"/queue/{EDIT}/requests/{request_id}/status").json()["status"] == "COMPLETED"
    again = call(server, "DELETE", f"/api/v1/models/requests/{request_id}/payloads")
    assert (again.status_code, again.json()) == (200, {"cdn_delete_results": []})


def test_an_upload_outlives_the_request_that_used_it(server: LiveServer, hands: Hands):
    begun = call(server, "POST", "/rest/storage/upload/initiate", json={"content_type": "image/png"}).json()
    assert httpx.put(begun["upload_url"], content=photo()).is_success
    request_id = finished(server, hands, image_url=begun["file_url"])
    link = item(server, request_id, expand="payloads")["json_input"]["image_url"]
    assert call(server, "DELETE", f"/api/v1/models/requests/{request_id}/payloads").is_success
    assert httpx.get(begun["file_url"]).content == photo()
    assert httpx.get(link).content == photo()


def test_what_has_not_ended_is_cancelled_before_it_is_deleted(server: LiveServer, hands: Hands):
    request_id = submit(server)
    path = f"/api/v1/models/requests/{request_id}/payloads"
    refused = call(server, "DELETE", path)
    assert refused.status_code == 400
    assert refused.json()["error"]["type"] == "validation_error"
    assert item(server, request_id, expand="payloads")["json_input"] is not None
    assert call(server, "PUT", f"/queue/{EDIT}/requests/{request_id}/cancel").status_code == 202
    assert call(server, "DELETE", path).json() == {"cdn_delete_results": []}
    assert item(server, request_id, expand="payloads")["json_input"] is None


@pytest.mark.parametrize(
    ("method", "path", "status", "kind", "words"),
    [
        ("GET", LIST, 400, "validation_error", "endpoint_id must name"),
        ("GET", f"{LIST}?endpoint_id=fal-ai/flux", 404, "not_found", "fal-ai/flux"),
        ("GET", f"{LIST}?endpoint_id={EDIT}&limit=101", 400, "validation_error", "from 1 to 100"),
        ("GET", f"{LIST}?endpoint_id={EDIT}&cursor=x", 400, "validation_error", "next_cursor"),
        ("GET", f"{LIST}?endpoint_id={EDIT}&start=yesterday", 400, "validation_error", "ISO 8601"),
        ("GET", f"{LIST}?endpoint_id={EDIT}&status=ok", 400, "validation_error", "success, user_error, error"),
        ("GET", f"{LIST}?endpoint_id={EDIT}&sort_by=price", 400, "validation_error", "ended_at, duration"),
        ("GET", f"{LIST}?endpoint_id={EDIT}&expand=billing", 400, "validation_error", "payloads"),
        ("GET", f"{LIST}?endpoint_id={EDIT}&page=2", 400, "validation_error", "no parameter 'page'"),
        ("POST", LIST, 405, "validation_error", "GET"),
        ("GET", "/api/v1/models/requests/x/payloads", 405, "validation_error", "DELETE"),
        ("DELETE", "/api/v1/models/requests/x/payloads", 404, "not_found", "no such job"),
        ("GET", "/api/v1/keys", 404, "not_found", "/keys"),
    ],
)
def test_errors_have_the_platforms_shape(  # noqa: PLR0917
    server: LiveServer, method: str, path: str, status: int, kind: str, words: str
):
    answer = call(server, method, path)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (status, kind)
    assert words in error["message"]
    assert error["request_id"] == answer.headers["x-fal-request-id"]


def test_a_key_is_needed(server: LiveServer):
    for method, path in (("GET", f"{LIST}?endpoint_id={EDIT}"), ("DELETE", "/api/v1/models/requests/x/payloads")):
        answer = call(server, method, path, headers={"Authorization": "Key wrong"})
        assert answer.status_code == 401
        assert answer.json()["error"]["type"] == "authorization_error"


def test_the_vendors_host_name_leads_to_the_platform(server: LiveServer, hands: Hands):
    request_id = finished(server, hands)
    answer = httpx.get(
        f"{server.url}/v1/models/requests/by-endpoint",
        params={"endpoint_id": EDIT, "request_id": request_id, "expand": "payloads"},
        headers={"Host": "api.fal.ai", "Authorization": f"Key {server.key}"},
    )
    (found,) = answer.json()["items"]
    assert found["json_output"]["images"][0]["url"].startswith("http://v3.fal.media/")
