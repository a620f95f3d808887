"""The fal face inside the whole application, for what a live server does not show from outside."""

from __future__ import annotations

import asyncio
import io
import tracemalloc
from dataclasses import replace

import httpx2
import orjson
import pytest
from PIL import Image

from retouch import images
from retouch.accounts.keys import ANONYMOUS, Keys
from retouch.jobs.job import JobState
from retouch.protocols import http
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.fal import realtime, streaming
from retouch.protocols.http import Authenticator
from retouch.server.app import create_app

QUEUE = "/fal/queue/fal-ai/qwen-image-edit"
BODY = {"prompt": "p", "image_url": "https://example.com/a.png"}


async def test_a_bug_is_no_page_of_html(
    client: httpx2.AsyncClient, dependencies: AppDependencies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checklist 30: the shape, the id and the origin header, whatever breaks."""

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(dependencies.service, "submit", broken)
    answer = await client.post(QUEUE, json=BODY, headers={"origin": "http://localhost:3000"})
    assert answer.status_code == 500
    assert answer.json()["detail"][0]["type"] == "internal_server_error"
    assert "ZeroDivisionError" not in answer.text
    assert answer.headers["x-fal-request-id"]
    assert answer.headers["access-control-allow-origin"] == "*"


async def test_a_silent_status_stream_is_kept_alive(
    client: httpx2.AsyncClient, dependencies: AppDependencies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checklist 32: comments while nothing changes, which both clients skip."""
    monkeypatch.setattr(streaming, "KEEP_ALIVE_S", 0.02)
    monkeypatch.setattr(streaming, "POSITION_S", 0.01)
    made = (await client.post(QUEUE, json=BODY)).json()
    path = f"{QUEUE}/requests/{made['request_id']}"
    await dependencies.watch.start()
    messages: list[str] = []

    async def send(message: dict[str, object]) -> None:
        body = message.get("body", b"")
        assert isinstance(body, bytes)
        messages.append(body.decode())
        if body == b": ping\n\n":
            await client.put(f"{path}/cancel")

    await ask(client, f"{path}/status/stream", send)
    await dependencies.watch.stop()
    text = "".join(messages)
    assert text.index("IN_QUEUE") < text.index(": ping") < text.index("COMPLETED")
    assert orjson.loads(text.strip().rpartition("data: ")[2])["status"] == "COMPLETED"


@pytest.mark.parametrize(
    ("path", "announced"),
    [("/fal/cdn/files/upload", 129 * 2**20), (QUEUE, 65 * 2**20)],
)
async def test_a_body_that_is_announced_too_large_is_not_waited_for(
    client: httpx2.AsyncClient, path: str, announced: int
) -> None:
    """Checklist 41."""
    answer = await client.post(path, content=b"x", headers={"content-length": str(announced)})
    assert (answer.status_code, answer.json()["error_type"]) == (413, "bad_request")


def test_what_a_socket_holds_is_bounded_in_bytes_too() -> None:
    """Sixty of the largest messages would be four gigabytes."""
    inbox = realtime._Inbox(most=60, max_bytes=100)
    assert [inbox.put({"n": n}, 40) for n in range(4)] == [False, False, True, True]
    assert [message for message, _ in inbox.waiting] == [{"n": 2}, {"n": 3}]
    assert inbox.put({"n": 4}, 1000)
    assert [message for message, _ in inbox.waiting] == [{"n": 4}]


async def test_the_bytes_of_an_image_do_not_outlive_the_submit(
    client: httpx2.AsyncClient, dependencies: AppDependencies
) -> None:
    """A waiting caller costs no memory but what a connection needs."""
    image = io.BytesIO()
    Image.effect_noise((2000, 1500), 100).save(image, "PNG", compress_level=0)
    body = orjson.dumps({"prompt": "p", "image_url": images.data_uri(image.getvalue(), "image/png")})
    pieces = [body[start : start + 65_536] for start in range(0, len(body), 65_536)]
    assert len(body) > 3_000_000
    job_id, gone = asyncio.Event(), asyncio.Event()

    async def receive() -> dict[str, object]:
        if pieces:
            return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}
        job_id.set()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(_: dict[str, object]) -> None:
        pass

    await dependencies.watch.start()
    tracemalloc.start()
    waiting = asyncio.create_task(ask(client, "/fal/run/fal-ai/qwen-image-edit", send, "POST", receive))
    await job_id.wait()
    held = tracemalloc.get_traced_memory()[0]
    async with asyncio.timeout(10):
        # The thread that has submitted lets go of its arguments a moment after it has answered.
        while held > len(body) / 4:
            await asyncio.sleep(0)
            held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    gone.set()
    await waiting
    await dependencies.watch.stop()
    (job,) = dependencies.service.recent(ANONYMOUS, 2)
    assert job.state is JobState.CANCELLED


async def ask(client: httpx2.AsyncClient, path: str, send: object, method: str = "GET", receive: object = None) -> None:
    """A call whose answer is seen as it comes; the client of the tests hands it over whole."""
    transport = client._transport
    assert isinstance(transport, httpx2.ASGITransport)
    scope = {
        "type": "http",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"retouch.test")],
        "asgi": {"version": "3.0", "spec_version": "2.4"},
    }

    async def receive_nothing() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    await transport.app(scope, receive or receive_nothing, send)  # type: ignore[arg-type]


async def test_callers_who_cannot_be_told_apart_see_no_list(
    client: httpx2.AsyncClient, dependencies: AppDependencies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator may let every caller in without a key; then none may read what the others have requested."""
    monkeypatch.setattr(http, "KEYS_CHECK_S", 0.0)  # else the first key is noticed a second later
    path = "/fal/api/v1/models/requests/by-endpoint?endpoint_id=fal-ai/qwen-image-edit"
    assert (await client.get(path)).status_code == 200, "this machine's own server, while it has no key"
    door = Authenticator(Keys(dependencies.service._database), loopback=False, no_auth=True)
    transport = httpx2.ASGITransport(create_app(replace(dependencies, authenticator=door)))
    async with httpx2.AsyncClient(transport=transport, base_url="http://retouch.test") as keyless:
        refused = await keyless.get(path)
        assert (refused.status_code, refused.json()["error"]["type"]) == (401, "authorization_error")
        secret = Keys(dependencies.service._database).create("anne")
        assert (await keyless.get(path, headers={"authorization": f"Key {secret}"})).status_code == 200
