"""Whatever is raised under the face has OpenAI's shape and the upload behind it."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from starlette.exceptions import HTTPException

from retouch.accounts.keys import Account
from retouch.catalog import CHECKPOINTS, Catalog
from retouch.errors import InvalidKey, OutOfMemory, QueueFull, RetouchError, StorageUnavailable
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.openai.face import create_face


async def no_caller_is_let_in(secret: str | None) -> Account:
    raise InvalidKey(f"The key {secret!r} is not one of ours.")


def face(raised: Exception | None = None) -> httpx2.AsyncClient:
    """A client of the face alone; `GET /raise` raises what it is told. There is no service behind it."""
    parts: dict[str, Any] = dict.fromkeys(field.name for field in dataclasses.fields(AppDependencies))
    parts |= {"catalog": Catalog.serving(CHECKPOINTS[0]), "max_body_bytes": 1 << 20}
    parts["authenticator"] = SimpleNamespace(authenticate=no_caller_is_let_in)
    app = create_face(AppDependencies(**parts))

    @app.get("/raise")
    async def do_raise() -> None:
        assert raised is not None
        raise raised

    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://server/")


@pytest.mark.parametrize(
    ("error", "status", "code", "retry"),
    [
        (RuntimeError("secret detail"), 500, "internal_error", None),
        (StorageUnavailable("The disk is full."), 503, "storage_unavailable", None),
        (QueueFull("Too many."), 429, "queue_full", None),
        (OutOfMemory("Too large."), 500, "out_of_memory", "false"),
        (RetouchError("Something."), 500, "internal_error", "false"),
        (HTTPException(418, "teapot"), 400, "invalid_value", None),
    ],
)
async def test_every_error_has_openais_shape(error: Exception, status: int, code: str, retry: str | None):
    async with face(error) as client:
        answer = await client.get("/raise")
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert set(answer.json()["error"]) >= {"message", "type", "param", "code"}
    assert answer.headers.get("x-should-retry") == retry
    assert "secret" not in answer.text


async def test_an_upload_is_read_to_its_end_before_a_stranger_is_refused():
    sent = 0

    async def upload() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(50):
            sent += 1
            yield bytes(1000)

    async with face() as client:
        answer = await client.post("/images/edits", content=upload(), headers={"authorization": "Bearer rt_x"})
    assert (answer.status_code, sent) == (401, 50)
    assert answer.json()["error"]["message"] == "The key 'rt_x' is not one of ours."


async def test_a_client_that_waits_to_be_asked_for_its_body_is_not():
    body_read = False

    async def upload() -> AsyncIterator[bytes]:
        nonlocal body_read
        body_read = True
        yield b"x"

    async with face() as client:
        answer = await client.post("/images/edits", content=upload(), headers={"expect": "100-continue"})
    assert (answer.status_code, body_read) == (401, False)
