"""RunPod's JavaScript client and its provider for Vercel's `ai`, unmodified, against a live server."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from retouch.jobs.job import JobState
from tests.harness import gated_server
from tests.live_server import LiveServer, live_server
from tests.sdk import node_clients
from tests.sdk.fal import photo
from tests.sdk.node_clients import needs_node, node_packages
from tests.sdk.runpod_client import NEWER, an_input, call, runpod_url
from tests.waiting import until

__all__ = ["node_packages"]

pytestmark = [needs_node, pytest.mark.usefixtures("node_packages")]

IMAGE = base64.b64encode(photo()).decode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("node-runpod"), key=True) as running:
        yield running


def called(server: LiveServer, name: str, **given: Any) -> Any:
    return node_clients.call("runpod", name, base=runpod_url(server.url), key=server.key, **given)


def test_every_verb_of_the_javascript_client(server: LiveServer):
    """Check 31."""
    done = called(server, "everything", input=an_input(output_format="png"))
    for job in (done["sync"], done["ended"], done["status"]):
        assert (job["status"], job["completed"], job["succeeded"]) == ("COMPLETED", True, True)
        assert job["output"]["image_url"].startswith(server.url)
    assert (done["failed"]["status"], done["failed"]["succeeded"]) == ("FAILED", False)
    assert done["failed"]["error"] == "The field 'image' is required."
    assert done["submitted"]["status"] == "IN_QUEUE"
    assert [chunk["output"] for chunk in done["chunks"]] == [done["status"]["output"]]
    assert done["again"] == []
    assert done["cancelled"]["status"] == "COMPLETED"
    assert done["health"]["workers"]["ready"] == 1
    assert done["purged"] == {"removed": 0, "status": "completed"}
    assert done["unknown"]["message"] == "Request failed with status code 404"
    assert done["unauthorized"]["message"] == "Request failed with status code 401"


def test_the_javascript_client_follows_a_slow_edit(tmp_path: Path):
    """Checks 25, 26 and 31: its loops wait where the server lets them wait, and end with the edit."""
    with gated_server(tmp_path) as gated:
        base = runpod_url(gated.url)
        waiting = node_clients.start("runpod", "slowRunSync", base=base, input=an_input())
        following = node_clients.start("runpod", "followed", base=base, input=an_input())
        until(lambda: len(gated.jobs()) == 2)
        until(lambda: any(job.state is JobState.RUNNING for job in gated.jobs()))
        gated.gate.let()
        until(lambda: any(job.step == 1 for job in gated.jobs()))
        gated.gate.open()
        assert node_clients.returned(waiting)["job"]["status"] == "COMPLETED"
        followed = node_clients.returned(following)
        assert followed["status"]["status"] == "COMPLETED"
        assert followed["chunks"][-1]["output"] == followed["status"]["output"]


@pytest.mark.parametrize("images", [[IMAGE], [IMAGE, IMAGE], "a link"])
def test_the_vercel_provider_edits(server: LiveServer, images: Any):
    """Check 32: the result is fetched without the key."""
    if images == "a link":
        made = call(server, "POST", "runsync", json={"input": an_input(output_format="png")}).json()
        images = [made["output"]["image_url"]]
    done = called(server, "vercel", images=images, more={"output_format": "png"})
    assert done["mediaType"] == "image/png"
    image = Image.open(io.BytesIO(base64.b64decode(done["bytes"])))
    assert image.width > image.height  # as the input; the provider's own size was not requested


def test_the_vercel_provider_edits_at_the_newer_endpoint(server: LiveServer):
    """Check 32."""
    done = called(server, "vercel", images=[IMAGE], model=f"qwen/{NEWER}", endpoint=NEWER, size="512x768")
    image = Image.open(io.BytesIO(base64.b64decode(done["bytes"])))
    assert (image.format, image.size) == ("JPEG", (512, 768))


def test_the_vercel_provider_tells_what_was_wrong(server: LiveServer):
    """Check 32."""
    assert "Invalid image URL" in called(server, "vercelRefused")["message"]
