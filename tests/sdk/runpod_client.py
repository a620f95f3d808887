"""What the tests of the RunPod face share: the vendor's client pointed at a server, inputs, plain calls."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import httpx
import runpod

from tests.live_server import LiveServer
from tests.sdk.fal import DATA_URI

EDIT, NEWER = "qwen-image-edit", "qwen-image-edit-2511"
FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")


def an_input(**more: Any) -> dict[str, Any]:
    return {"prompt": "make it snow", "image": DATA_URI, **more}


@contextlib.contextmanager
def pointed_at(url: str, key: str | None = None, endpoint: str = EDIT) -> Iterator[runpod.Endpoint]:
    """The package's address and an endpoint of it; what it kept before is put back."""
    before = runpod.endpoint_url_base
    runpod.endpoint_url_base = f"{url}/v2"
    made = runpod.Endpoint(endpoint, api_key=key or "any")
    try:
        yield made
    finally:
        runpod.endpoint_url_base = before
        made.rp_client.rp_session.close()


def call(
    server: LiveServer | str, method: str, operation: str, *, endpoint: str = EDIT, key: str | None = None, **more: Any
) -> httpx.Response:
    """One plain request to an operation of an endpoint."""
    url = server if isinstance(server, str) else server.url
    key = key or ("any" if isinstance(server, str) else server.key or "any")
    headers = {"Authorization": f"Bearer {key}", **more.pop("headers", {})}
    return httpx.request(method, f"{url}/v2/{endpoint}/{operation}", headers=headers, timeout=30, **more)


def submit(server: LiveServer | str, *, key: str | None = None, endpoint: str = EDIT, **envelope: Any) -> str:
    """Id of a new job of `run`."""
    answer = call(server, "POST", "run", key=key, endpoint=endpoint, json={"input": an_input(), **envelope})
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "IN_QUEUE"
    return str(answer.json()["id"])


def nulls_in(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(nulls_in, value.values()))
    return any(map(nulls_in, value)) if isinstance(value, list) else value is None


def runpod_url(url: str) -> str:
    """What the clients are given for the vendor's `https://api.runpod.ai/v2`."""
    return f"{url}/v2"
