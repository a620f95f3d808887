"""The three programs of the vendor's page of qwen-image-edit, as they stand there but for the two addresses in them.

They run against the demo model, so the answer is an edit; what seeds do is looked at here too.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.live_server import LiveServer, live_server
from tests.sdk.fal import image_at, photo
from tests.sdk.node_clients import needs_node
from tests.sdk.runpod_client import an_input, call

VENDOR, PHOTO = "https://api.runpod.ai", "https://example.com/fashion-photo.png"

CURL = """\
curl -X POST "https://api.runpod.ai/v2/qwen-image-edit/runsync" \\
  -H "Authorization: Bearer $RUNPOD_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{
    "input": {
      "prompt": "change the trench coat and high heels color to light grey",
      "negative_prompt": "",
      "seed": -1,
      "image": "https://example.com/fashion-photo.png",
      "output_format": "png",
      "enable_safety_checker": true
    }
  }'
"""

PYTHON = """\
import requests

response = requests.post(
    "https://api.runpod.ai/v2/qwen-image-edit/runsync",
    headers={
        "Authorization": f"Bearer {RUNPOD_API_KEY}",
        "Content-Type": "application/json",
    },
    json={
        "input": {
            "prompt": "change the trench coat and high heels color to light grey",
            "negative_prompt": "",
            "seed": -1,
            "image": "https://example.com/fashion-photo.png",
            "output_format": "png",
            "enable_safety_checker": True,
        }
    },
)

result = response.json()
print(result["output"]["image_url"])
"""

JAVASCRIPT = """\
const response = await fetch(
  "https://api.runpod.ai/v2/qwen-image-edit/runsync",
  {
    method: "POST",
    headers: {
      Authorization: `Bearer ${RUNPOD_API_KEY}`,
      "Content-Type": "application/json",
    },
    body: JSON.stringify({
      input: {
        prompt: "change the trench coat and high heels color to light grey",
        negative_prompt: "",
        seed: -1,
        image: "https://example.com/fashion-photo.png",
        output_format: "png",
        enable_safety_checker: true,
      },
    }),
  }
);

const result = await response.json();
console.log(result.output.image_url);
"""


@pytest.fixture(scope="module")
def photo_host() -> Iterator[str]:
    """Serves a photo under every path; the address as `--allow-private` takes it."""
    file = photo()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "image/png")
            self.send_header("content-length", str(len(file)))
            self.end_headers()
            self.wfile.write(file)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, photo_host: str) -> Iterator[LiveServer]:
    data = tmp_path_factory.mktemp("runpod-demo")
    with live_server(data, model="demo", key=True, arguments=("--allow-private", photo_host)) as running:
        yield running


def output_of(command: list[str], server: LiveServer) -> str:
    environment = {**os.environ, "RUNPOD_API_KEY": server.key or ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def here(program: str, server: LiveServer, photo_host: str) -> str:
    return program.replace(VENDOR, server.url).replace(PHOTO, f"http://{photo_host}/fashion-photo.png")


def test_the_curl_program_of_the_page(server: LiveServer, photo_host: str):
    """Check 33."""
    body = httpx.Response(200, content=output_of(["bash", "-c", here(CURL, server, photo_host)], server)).json()
    output = body["output"]
    assert body["status"] == "COMPLETED"
    assert output["image_url"] == output["result"]
    assert output["cost"] > 0
    assert image_at(output["image_url"]).format == "PNG"


def test_the_python_program_of_the_page(server: LiveServer, photo_host: str):
    """Check 33."""
    program = 'import os\nRUNPOD_API_KEY = os.environ["RUNPOD_API_KEY"]\n' + here(PYTHON, server, photo_host)
    assert image_at(output_of([sys.executable, "-c", program], server).strip()).format == "PNG"


@needs_node
def test_the_javascript_program_of_the_page(server: LiveServer, photo_host: str):
    """Check 33."""
    program = "const { RUNPOD_API_KEY } = process.env;\n" + here(JAVASCRIPT, server, photo_host)
    assert image_at(output_of(["node", "--input-type=module", "-e", program], server).strip()).format == "PNG"


def file_of(server: LiveServer, **given: Any) -> bytes:
    done = call(server, "POST", "runsync", json={"input": an_input(output_format="png", **given)}).json()
    return httpx.get(done["output"]["image_url"]).content


def test_a_seed_repeats_its_image_and_no_seed_does_not(server: LiveServer):
    """Check 36."""
    assert file_of(server, seed=7) == file_of(server, seed="7")
    first, second = file_of(server, seed=-1), file_of(server)
    assert first != second
    assert Image.open(io.BytesIO(first)).size == Image.open(io.BytesIO(second)).size
