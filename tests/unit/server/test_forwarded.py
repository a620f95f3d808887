"""Whose word about the caller's address is believed."""

from __future__ import annotations

import httpx2
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from retouch.errors import InvalidSetting
from retouch.server.forwarded import ForwardedHeaders

FORWARDED = {"x-forwarded-proto": "https", "x-forwarded-host": "edits.example.com, inner"}


async def origin_seen(*trusted: str, peer: str = "10.1.2.3", **headers: str) -> str:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        await PlainTextResponse(f"{scope['scheme']}://{request.headers['host']}")(scope, receive, send)

    transport = httpx2.ASGITransport(ForwardedHeaders(app, trusted), client=(peer, 4711))
    async with httpx2.AsyncClient(transport=transport, base_url="http://server") as client:
        return (await client.get("/", headers={**FORWARDED, **headers})).text


async def test_no_peer_is_believed_unless_the_operator_names_it() -> None:
    assert await origin_seen() == "http://server"
    assert await origin_seen("127.0.0.1", "192.168.0.0/16") == "http://server"


@pytest.mark.parametrize("trusted", ["10.1.2.3", "10.0.0.0/8", "*"])
async def test_a_named_proxy_says_what_address_its_caller_used(trusted: str) -> None:
    assert await origin_seen(trusted) == "https://edits.example.com"


async def test_an_unknown_scheme_is_left_alone() -> None:
    assert await origin_seen("*", **{"x-forwarded-proto": "gopher"}) == "http://edits.example.com"


async def test_a_peer_without_an_address_is_not_believed() -> None:
    assert await origin_seen("10.0.0.0/8", peer="unix") == "http://server"


def test_what_is_no_address_is_refused_with_a_sentence() -> None:
    with pytest.raises(InvalidSetting, match="--forwarded-allow-ips takes addresses"):
        ForwardedHeaders(lambda *_: None, ["proxy.local"])  # type: ignore[arg-type,return-value]
