"""The same face by other addresses: the vendor's host names, the proxy path of browsers, another origin."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.live_server import LiveServer, live_server
from tests.sdk.fal import EDIT, HEADER, TWO, arguments, call, photo
from tests.waiting import until

TARGET = "x-fal-target-url"
PAGE = "https://page.example"


def by_host(server: LiveServer, host: str, method: str, path: str, **more: Any) -> httpx.Response:
    """A call as it arrives when the vendor's name leads to this server."""
    headers = {"Host": host, "Authorization": "Key any", **more.pop("headers", {})}
    return httpx.request(method, server.url + path, headers=headers, timeout=30, **more)


def by_proxy(server: LiveServer, method: str, target: str, **more: Any) -> httpx.Response:
    """A call of the JavaScript client with `proxyUrl`."""
    headers = {TARGET: target, **more.pop("headers", {})}
    return call(server, method, "/proxy", headers=headers, **more)


@pytest.mark.parametrize("suffix", ["", ":8443"])
def test_the_vendors_hosts_are_this_face(server: LiveServer, suffix: str):
    """Checklist 4: one path, told apart by host; the answers name the same hosts."""
    run = by_host(server, f"fal.run{suffix}", "POST", f"/{TWO}", json=arguments(TWO))
    assert list(run.json()) == ["images", "seed", "notices"]
    queued = by_host(server, f"queue.fal.run{suffix}", "POST", f"/{TWO}", json=arguments(TWO)).json()
    base = f"http://queue.fal.run{suffix}/fal-ai/qwen-image-2/requests/{queued['request_id']}"
    assert queued["response_url"] == base
    path = httpx.URL(base).path
    until(lambda: by_host(server, "queue.fal.run", "GET", f"{path}/status").status_code == 200)
    result = by_host(server, "queue.fal.run", "GET", path).json()
    link = httpx.URL(result["images"][0]["url"])
    assert link.host == "v3.fal.media"
    file = by_host(server, "v3.fal.media", "GET", link.raw_path.decode())
    assert file.headers["content-type"] == "image/png"


@pytest.mark.parametrize("host", ["falrun.com", "FAL.RUN", "fal.run."])
def test_backup_hosts_are_taken_too(server: LiveServer, host: str):
    """Checklist 52: with the backup names mapped, their requests stay here."""
    assert by_host(server, host, "POST", f"/{EDIT}", json=arguments()).status_code == 200


def test_uploads_by_host(server: LiveServer):
    """Checklist 4 and 37."""
    token = by_host(server, "rest.fal.ai", "POST", "/storage/auth/token?storage_type=fal-cdn-v3", json={}).json()
    assert token["base_url"] == "http://v3.fal.media"
    sent = by_host(server, "v3.fal.media", "POST", "/files/upload", content=photo()).json()
    link = httpx.URL(sent["access_url"])
    assert by_host(server, "v3.fal.media", "GET", link.raw_path.decode()).content == photo()
    edit = by_host(server, "fal.run", "POST", f"/{EDIT}", json=arguments(image_url=sent["access_url"]))
    assert edit.status_code == 200, edit.text


def test_another_host_is_no_host_of_the_vendor(server: LiveServer):
    """A path without a service belongs to the reseller shape, which queues."""
    answer = by_host(server, "fal.run.test", "POST", f"/{EDIT}", json=arguments())
    assert answer.json()["status"] == "IN_QUEUE"
    assert by_host(server, "queue.fal.run.test", "GET", f"/{EDIT}").status_code == 405


def test_a_browser_reaches_everything_through_one_path(server: LiveServer):
    """Checklist 4 and 47."""
    queued = by_proxy(server, "POST", f"https://queue.fal.run/{EDIT}?fal_max_queue_length=5", json=arguments()).json()
    base = f"https://queue.fal.run/{EDIT}/requests/{queued['request_id']}"
    until(lambda: by_proxy(server, "GET", f"{base}/status?logs=1").status_code == 200)
    status = by_proxy(server, "GET", f"{base}/status?logs=1")
    assert isinstance(status.json()["logs"], list)
    assert status.headers[HEADER] == queued["request_id"]
    assert by_proxy(server, "GET", base).json()["images"]
    assert by_proxy(server, "PUT", f"{base}/cancel").json()["status"] == "ALREADY_COMPLETED"
    assert by_proxy(server, "POST", f"https://fal.run/{EDIT}", json=arguments()).json()["images"]
    begun = by_proxy(server, "POST", "https://rest.fal.ai/storage/upload/initiate?storage_type=fal-cdn-v3", json={})
    assert begun.json()["upload_url"].startswith(f"{server.url}/fal/cdn/uploads/")
    events = by_proxy(server, "POST", f"https://fal.run/{EDIT}/stream", json=arguments())
    assert events.headers["content-type"].startswith("text/event-stream")


def test_the_proxy_hands_events_on_as_they_come(idle_server: LiveServer):
    """Checklist 47: nothing is buffered; the first event is there while the request waits."""
    target = f"https://queue.fal.run/{EDIT}"
    waiting = by_proxy(idle_server, "POST", target, json=arguments()).json()["request_id"]
    headers = {TARGET: f"{target}/requests/{waiting}/status/stream", "Authorization": f"Key {idle_server.key}"}
    with httpx.stream("GET", f"{idle_server.url}/fal/proxy", headers=headers, timeout=20) as answer:
        lines = answer.iter_lines()
        assert '"IN_QUEUE"' in next(lines)
        assert by_proxy(idle_server, "PUT", f"{target}/requests/{waiting}/cancel").status_code == 202
        assert [line for line in lines if line][-1].count('"COMPLETED"') == 1


def test_the_proxy_keeps_the_status_of_an_error(server: LiveServer):
    """Checklist 47."""
    answer = by_proxy(server, "POST", f"https://fal.run/{EDIT}", json={})
    assert (answer.status_code, answer.json()["detail"][0]["type"]) == (422, "missing")
    assert by_proxy(server, "GET", f"https://queue.fal.run/{EDIT}/requests/none").status_code == 404


@pytest.mark.parametrize(
    "target",
    [
        "",
        "https://example.com/x",
        "file:///etc/passwd",
        "https://queue.fal.run.evil.example/x",
        "http://[",
        "fal.run/x",
    ],
)
def test_the_proxy_goes_nowhere_else(server: LiveServer, target: str):
    """Checklist 47: a foreign host is refused."""
    answer = by_proxy(server, "POST", target, json=arguments())
    assert answer.status_code == 400
    assert "Invalid request" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/queue/fal-ai/qwen-image-edit", "/cdn/uploads/x", "/proxy", "/rest/tokens/"])
def test_a_browser_of_another_origin_may_call(idle_server: LiveServer, path: str):
    """Checklist 48: the question before the call, and what a script may read of the answer."""
    wanted = "authorization,content-type,x-fal-target-url,x-fal-queue-priority,x-fal-object-lifecycle"
    preflight = {"Origin": PAGE, "Access-Control-Request-Method": "PUT"}
    answer = call(idle_server, "OPTIONS", path, headers={**preflight, "Access-Control-Request-Headers": wanted})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "PUT" in answer.headers["access-control-allow-methods"]
    allowed = answer.headers["access-control-allow-headers"].lower().replace(" ", "")
    assert allowed == "*" or set(wanted.split(",")) <= set(allowed.split(","))
    plain = call(idle_server, "GET", path, headers={"Origin": PAGE})
    assert plain.headers["access-control-allow-origin"] == "*"
    assert HEADER in plain.headers["access-control-expose-headers"]


def test_a_file_may_be_read_by_any_page(server: LiveServer):
    """Checklist 48."""
    link = call(server, "POST", f"/run/{EDIT}", json=arguments()).json()["images"][0]["url"]
    answer = httpx.get(link, headers={"Origin": PAGE, "Range": "bytes=0-3"})
    assert answer.headers["access-control-allow-origin"] == "*"
    assert (answer.status_code, answer.content) == (206, b"\x89PNG")


def test_the_operators_own_name_is_in_every_address(tmp_path_factory: pytest.TempPathFactory):
    """Checklist 3: behind a proxy the server is known by another address."""
    public = {"RETOUCH_PUBLIC_URL": "https://edits.example/"}
    with live_server(tmp_path_factory.mktemp("fal"), environment=public) as server:
        queued = call(server, "POST", f"/queue/{EDIT}", json=arguments()).json()
        assert queued["status_url"].startswith(f"https://edits.example/fal/queue/{EDIT}/requests/")
        result = call(server, "POST", f"/run/{EDIT}", json=arguments()).json()
        link = result["images"][0]["url"]
        assert link.startswith("https://edits.example/files/")
        assert call(server, "POST", f"/run/{EDIT}", json=arguments(image_url=link)).status_code == 200


def test_each_endpoint_is_described(server: LiveServer):
    """A page for programs, and OpenAPI; both name this server."""
    page = call(server, "GET", f"/models/{TWO}/llms.txt")
    assert page.headers["content-type"].startswith("text/plain")
    assert f"{server.url}/fal/queue/{TWO}" in page.text
    document = call(server, "GET", f"/openapi.json?endpoint_id={TWO}").json()
    assert document["servers"] == [{"url": f"{server.url}/fal"}]
    assert call(server, "GET", "/models/fal-ai/nothing/llms.txt").status_code == 404
    assert call(server, "GET", "/openapi.json?endpoint_id=fal-ai/nothing").status_code == 404
