"""What the tests of the fal face share: the vendor's client pointed at a server, an image, a worker by hand."""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fal_client
import httpx
import numpy as np
from PIL import Image

from retouch.edit import EditOutput, OutputImage, Usage
from retouch.errors import Failure
from retouch.jobs.job import Lease
from tests.harness import Deployment
from tests.live_server import LiveServer

EDIT, PLUS, TWO = "fal-ai/qwen-image-edit", "fal-ai/qwen-image-edit-plus", "fal-ai/qwen-image-2/edit"
HEADER = "x-fal-request-id"


def photo(width: int = 512, height: int = 384, format: str = "PNG") -> bytes:  # noqa: A002
    ramp = np.linspace(0, 255, width * height * 3).reshape(height, width, 3).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(ramp).save(out, format)
    return out.getvalue()


DATA_URI = "data:image/png;base64," + base64.b64encode(photo()).decode()


def arguments(endpoint: str = EDIT, **more: Any) -> dict[str, Any]:
    image = {"image_url": DATA_URI} if endpoint == EDIT else {"image_urls": [DATA_URI]}
    return {"prompt": "make it snow", **image, **more}


def image_at(url: str) -> Image.Image:
    data = base64.b64decode(url.partition(",")[2]) if url.startswith("data:") else httpx.get(url).content
    return Image.open(io.BytesIO(data))


@contextlib.contextmanager
def pointed_at(server: LiveServer | Deployment) -> Iterator[fal_client.SyncClient]:
    """Recipe 16.2: the module's addresses."""
    module, base = fal_client.client, f"{server.url}/fal"
    wanted = {
        "RUN_URL_FORMAT": f"{base}/run/",
        "QUEUE_URL_FORMAT": f"{base}/queue/",
        "REST_URL": f"{base}/rest",
        "CDN_URL": f"{base}/cdn",
    }
    before = {name: getattr(module, name) for name in wanted}
    for name, value in wanted.items():
        setattr(module, name, value)
    try:
        with closed_client(server.key or "any") as client:
            yield client
    finally:
        for name, value in before.items():
            setattr(module, name, value)


@contextlib.contextmanager
def closed_client(key: str) -> Iterator[fal_client.SyncClient]:
    """The vendor's client, whose connections only this function closes."""
    client = fal_client.SyncClient(key=key)
    with client._client:
        yield client


@contextlib.contextmanager
def hands_at(server: LiveServer) -> Iterator[Hands]:
    """A worker by hand on the server's data; at the end no job is left waiting for the next test."""
    made = Hands(server.data)
    yield made
    while (lease := made.service.lease("hands", ["null"], 60)) is not None:
        made.service.fail(lease, Failure("internal_error", "left over"))
    made.close()


class Hands(Deployment):
    """A worker by hand: what the service offers to workers, on the data of a server that has none."""

    def finish(self, lease: Lease) -> None:
        data, request = photo(), lease.job.request
        key = self.blobs.put(data, "image/png", folder="outputs", ttl_s=3600)
        images = (OutputImage(key, 512, 384, "image/png", len(data), request.seed or 0),)
        output = EditOutput(images, request.prompt, {"inference": 0.5}, (512, 384))
        self.service.finish(lease, output, Usage(1, 512 * 384, 4, 500))


def uploads(server: LiveServer) -> set[Path]:
    """The files that callers have sent to a server."""
    return {path for path in (server.data / "files" / "uploads").rglob("*") if path.is_file()}


def call(server: LiveServer, method: str, path: str, **more: Any) -> httpx.Response:
    headers = {"Authorization": f"Key {server.key or 'any'}", **more.pop("headers", {})}
    return httpx.request(method, f"{server.url}/fal{path}", headers=headers, timeout=30, **more)
