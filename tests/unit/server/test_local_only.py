"""A server without keys and the pages its owner visits: who is let in by name and by origin."""

from __future__ import annotations

from dataclasses import replace

import httpx2
import pytest

from retouch.accounts.keys import Keys
from retouch.errors import DatabaseUnavailable
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.fal.vendor_hosts import SERVICES
from retouch.protocols.http import Authenticator
from retouch.server.app import create_app

QUEUE = "/fal/queue/fal-ai/qwen-image-edit"


async def status(client: httpx2.AsyncClient, method: str = "POST", path: str = QUEUE, **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return (await client.request(method, path, headers=named)).status_code


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8000", "localhost:8000", "LOCALHOST", "[::1]:8000", "10.1.2.3", "retouch", "box.local", "a.localhost"],
)
async def test_a_name_that_cannot_be_registered_is_answered(client: httpx2.AsyncClient, host: str) -> None:
    assert await status(client, host=host) == 422


@pytest.mark.parametrize("host", ["rebound.example.com", "rebound.example.com:8000", "127.0.0.1.example.com", "a.b."])
@pytest.mark.parametrize("path", [QUEUE, "/v1/images/edits", "/fal-ai/x", "/metrics", "/", "/files/x"])
async def test_a_page_that_comes_under_its_own_name_is_refused(
    client: httpx2.AsyncClient, host: str, path: str
) -> None:
    """DNS rebinding: the browser takes this server for the page's own."""
    answer = await client.get(path, headers={"host": host})
    assert answer.status_code == 403
    assert "retouch keys create" in answer.json()["error"]["message"]
    assert answer.json()["detail"] == answer.json()["message"]


@pytest.mark.parametrize("host", sorted(SERVICES))
async def test_the_vendors_names_lead_here_as_before(client: httpx2.AsyncClient, host: str) -> None:
    assert await status(client, path="/fal-ai/nothing", host=host) == 404


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"origin": "https://page.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://["}, 403),
        ({"origin": "https://fal.run"}, 403),
        ({"origin": "https://localhost.example"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 403),
        ({"origin": "http://localhost:5173", "sec-fetch-site": "cross-site"}, 422),
        ({"origin": "http://127.0.0.1:3000"}, 422),
        ({"origin": "http://retouch.test"}, 422),
        ({"sec-fetch-site": "same-origin"}, 422),
        ({"sec-fetch-site": "none"}, 422),
    ],
    ids=str,
)
async def test_only_pages_of_this_machine_may_call(
    client: httpx2.AsyncClient, headers: dict[str, str], expected: int
) -> None:
    answer = await client.post(QUEUE, headers=headers)
    assert answer.status_code == expected
    if "origin" in headers:
        assert answer.headers["access-control-allow-origin"] == "*"


async def test_an_image_on_a_page_starts_no_edit(client: httpx2.AsyncClient, dependencies: AppDependencies) -> None:
    """An <img> whose address is an edit in a query string."""
    address = f"{QUEUE}?prompt=p&image_url=https%3A%2F%2Fexample.com%2Fa.png"
    assert await status(client, "GET", address, sec_fetch_site="cross-site") == 403
    assert await status(client, "GET", address) == 200


async def test_links_to_files_and_signs_of_life_are_for_every_page(
    client: httpx2.AsyncClient, dependencies: AppDependencies
) -> None:
    key = dependencies.blobs.put(b"0123456789", "image/png", folder="outputs", ttl_s=600)
    stranger = {"origin": "https://page.example", "sec_fetch_site": "cross-site"}
    assert await status(client, "GET", dependencies.blobs.link(key, ttl_s=600, base_url=""), **stranger) == 200
    assert await status(client, "GET", "/", **stranger) == 200
    assert await status(client, "OPTIONS", QUEUE, access_control_request_method="POST", **stranger) == 200
    assert await status(client, "POST", "/files/upload", host="v3.fal.media", **stranger) == 403


async def test_the_first_key_opens_the_server_to_pages_that_have_it(
    client: httpx2.AsyncClient, dependencies: AppDependencies
) -> None:
    secret = Keys(dependencies.service._database).create("anne")
    stranger = {"host": "edits.example.com", "origin": "https://page.example"}
    assert await status(client, **stranger) == 401
    assert await status(client, **stranger, authorization=f"Key {secret}") == 422


async def test_no_auth_that_was_chosen_needs_no_guard_against_other_pages(dependencies: AppDependencies) -> None:
    authenticator = Authenticator(Keys(dependencies.service._database), loopback=True, no_auth=True)
    assert not await authenticator.unauthenticated()


async def test_the_operators_own_name_is_no_strangers(dependencies: AppDependencies) -> None:
    transport = httpx2.ASGITransport(create_app(replace(dependencies, public_url="https://edits.example.com")))
    async with httpx2.AsyncClient(transport=transport, base_url="https://edits.example.com") as client:
        assert await status(client, origin="https://edits.example.com") == 422
        assert await status(client, host="other.example.com") == 403


async def test_a_socket_from_a_strangers_page_is_closed(dependencies: AppDependencies) -> None:
    """A browser sends no preflight before it opens a socket to another site."""
    sent: list[dict[str, object]] = []

    async def send(message: object) -> None:
        assert isinstance(message, dict)
        sent.append(message)

    async def receive() -> dict[str, object]:
        return {"type": "websocket.connect"}

    headers = [(b"host", b"127.0.0.1:8000"), (b"origin", b"https://page.example")]
    path = "/fal/run/fal-ai/qwen-image-edit/realtime"
    scope = {"type": "websocket", "path": path, "headers": headers, "query_string": b"", "scheme": "ws"}
    await create_app(dependencies)(scope, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]


async def test_a_database_that_is_away_lets_no_caller_in(
    dependencies: AppDependencies, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> bool:
        raise DatabaseUnavailable("The database is away.")

    monkeypatch.setattr(dependencies.authenticator._keys, "any_exist", away)
    transport = httpx2.ASGITransport(create_app(dependencies))
    async with httpx2.AsyncClient(transport=transport, base_url="http://rebound.example.com") as client:
        assert await status(client) == 503
