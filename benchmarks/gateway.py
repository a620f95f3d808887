"""Added time of two gateways before the same provider: LiteLLM's proxy and Retouch, and none, asked in turns.

    python benchmarks/gateway.py [--requests 60] [--concurrency 1 8 64] [--litellm FOLDER]

The provider is a stub in a process of its own that reads an edit and answers at once. In the first table the caller
sends one PNG of 2 MB as a form and gets 2 MB of base64, and so do the gateways and the stub. In the second the input is
a link and so is the answer, which the caller then downloads; LiteLLM has no such way and is not in it. LiteLLM's proxy
is installed by pip into a virtual environment of its own, FOLDER or a temporary one; it is no dependency.

Added is the median of a gateway less that of the stub alone. CPU is what the process used for one edit, which a busy
machine changes less. At 8 and 64 callers all share the machine with the callers and the stub: the rate says more there.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn

sys.path.insert(0, str(Path(__file__).parent.parent))

from retouch import images
from tests.live_server import free_port, live_server

SIDE = 832
BOUNDARY = "benchmark-boundary"
MODEL = "qwen-image-edit-plus"
MASTER_KEY = "sk-benchmark-0123456789abcdef"
STARTS_WITHIN_S = 180.0

GOAL_RATIO, GOAL_BASE64_MS, GOAL_LINK_MS = 0.1, 10.0, 5.0

Ask = Callable[[http.client.HTTPConnection], None]
"""One edit, from the request to the last byte of its image."""


@dataclass(frozen=True)
class Figures:
    """Times of one server at one concurrency, in milliseconds."""

    times_ms: tuple[float, ...]
    elapsed_s: float
    cpu_s: float = 0.0

    @property
    def cpu_ms(self) -> float:
        return self.cpu_s * 1000 / len(self.times_ms)

    @property
    def p50(self) -> float:
        return statistics.median(self.times_ms)

    @property
    def p99(self) -> float:
        return sorted(self.times_ms)[min(len(self.times_ms) - 1, int(len(self.times_ms) * 0.99))]

    @property
    def per_second(self) -> float:
        return len(self.times_ms) / self.elapsed_s


@dataclass(frozen=True)
class Server:
    name: str
    port: int
    ask: Ask
    pid: int

    @property
    def cpu_s(self) -> float:
        """Seconds of processor time so far, where the system tells them as Linux does."""
        try:
            words = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def noise() -> bytes:
    """2 MB of a few pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    return images.encode(pixels, "png")


def form(model: str, image: bytes) -> bytes:
    fields = {"model": model, "prompt": "make it grey", "n": "1"}
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n'
    return (
        b"".join(parts) + f"{head}Content-Type: image/png\r\n\r\n".encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode()
    )


def answer_of(connection: http.client.HTTPConnection) -> bytes:
    answer = connection.getresponse()
    data = answer.read()
    assert answer.status == 200, (answer.status, data[:500])
    return data


def asks_by_form(body: bytes) -> Ask:
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Authorization": f"Bearer {MASTER_KEY}"}

    def ask(connection: http.client.HTTPConnection) -> None:
        connection.request("POST", "/v1/images/edits", body, headers)
        assert len(answer_of(connection)) > len(body)

    return ask


def asks_by_link(path: str, body: dict[str, Any], link_of: Callable[[Any], str]) -> Ask:
    text = json.dumps(body).encode()

    def ask(connection: http.client.HTTPConnection) -> None:
        connection.request("POST", path, text, {"Content-Type": "application/json"})
        link = link_of(json.loads(answer_of(connection)))
        host, _, place = link.removeprefix("http://").partition("/")
        download = http.client.HTTPConnection(host, timeout=60)
        download.request("GET", f"/{place}")
        assert len(answer_of(download)) > SIDE * SIDE
        download.close()

    return ask


def measure(server: Server, concurrency: int, requests: int) -> Figures:
    """`requests` edits in all from `concurrency` threads with a connection each."""
    times_ms: list[float] = []
    left = iter(range(requests))
    lock = threading.Lock()
    errors: list[Exception] = []

    def caller() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        try:
            while True:
                with lock:
                    if next(left, None) is None:
                        return
                began = time.perf_counter()
                server.ask(connection)
                times_ms.append((time.perf_counter() - began) * 1000)
        except (AssertionError, OSError, http.client.HTTPException) as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=caller) for _ in range(concurrency)]
    used, began = server.cpu_s, time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return Figures(tuple(times_ms), time.perf_counter() - began, server.cpu_s - used)


def in_turns(servers: Sequence[Server], concurrency: int, requests: int, rounds: int = 3) -> list[Figures]:
    each = max(concurrency, requests // rounds)
    parts = [[measure(server, concurrency, each) for server in servers] for _ in range(rounds)]
    by_server = [[part[index] for part in parts] for index in range(len(servers))]
    return [
        Figures(
            tuple(time_ms for one in own for time_ms in one.times_ms),
            sum(one.elapsed_s for one in own),
            sum(one.cpu_s for one in own),
        )
        for own in by_server
    ]


def run_stub(port: int) -> None:
    """A provider of both protocols and the file that its links lead to."""
    image = noise()
    in_base64 = json.dumps({"created": 0, "data": [{"b64_json": base64.b64encode(image).decode()}]}).encode()
    content = [{"image": f"http://127.0.0.1:{port}/image.png"}]
    in_links = json.dumps({"output": {"choices": [{"message": {"role": "assistant", "content": content}}]}}).encode()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        path = scope["path"]
        body = image if path == "/image.png" else in_links if path.startswith("/api/") else in_base64
        kind = b"image/png" if body is image else b"application/json"
        headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    config = uvicorn.Config(app, "127.0.0.1", port, log_level="error", http="httptools", loop="uvloop", lifespan="off")
    asyncio.run(uvicorn.Server(config).serve())


@contextlib.contextmanager
def running(command: Sequence[str], port: int, **how: Any) -> Iterator[int]:
    """The id of a process until the end of the block, once its port answers."""
    with tempfile.NamedTemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, **how)
        try:
            until = time.monotonic() + STARTS_WITHIN_S
            while True:
                with contextlib.suppress(OSError):
                    http.client.HTTPConnection("127.0.0.1", port, timeout=1).connect()
                    break
                gone = process.poll() is not None or time.monotonic() > until
                assert not gone, Path(log.name).read_text()[-2000:]
                time.sleep(0.2)
            yield process.pid
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def litellm(stub: int, folder: Path) -> Iterator[tuple[int, int, str]]:
    """Port and process of its proxy before the stub, and its version."""
    python = folder / "bin" / "python"
    if not python.exists():
        print("installing litellm[proxy] …", file=sys.stderr)
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "litellm[proxy]"], check=True)
    command = [python, "-c", "import importlib.metadata as m; print(m.version('litellm'))"]
    version = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    parameters = {
        "model": f"openai/{MODEL}",
        "api_base": f"http://127.0.0.1:{stub}/v1",
        "api_key": "any",
        "max_retries": 0,
    }
    config = {
        "model_list": [{"model_name": MODEL, "litellm_params": parameters}],
        "router_settings": {"num_retries": 0},
    }
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "config.yaml"
        file.write_text(json.dumps(config))  # which is YAML too
        port = free_port()
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"LITELLM_MASTER_KEY": MASTER_KEY}
        command = [str(folder / "bin" / "litellm"), "--config", str(file), "--host", "127.0.0.1", "--port", str(port)]
        with running(command, port, env=environment) as pid:
            yield port, pid, version


@contextlib.contextmanager
def retouch(stub: int, folder: Path) -> Iterator[tuple[int, int]]:
    """A server without a local model: `plain` gets forms and answers base64, `linked` gets and gives links."""
    port = free_port()
    file = folder / "retouch.toml"
    file.write_text(
        f"""
[gateway]
public_url = "http://127.0.0.1:{port}"
[upstreams.plain]
kind = "litellm"
base_url = "http://127.0.0.1:{stub}/v1"
charge = "none"
[upstreams.linked]
kind = "dashscope"
key = "env:BENCHMARK_KEY"
base_url = "http://127.0.0.1:{stub}"
images = "link"
charge = "none"
[[routes]]
model = "{MODEL}"
targets = [{{ to = "plain" }}]
[[routes]]
model = "qwen-image-2"
targets = [{{ to = "linked", model = "{MODEL}" }}]
"""
    )
    arguments = ("--workers", "0", "--routes", str(file), "--log-level", "error", "--allow-private", "127.0.0.1")
    environment = {"BENCHMARK_KEY": "any"}
    with live_server(folder / "data", arguments=arguments, environment=environment) as server:
        yield server.port, server.process.pid


def table(title: str, servers: Sequence[Server], concurrencies: Sequence[int], requests: int) -> dict[str, list[float]]:
    """Print it; returns the added milliseconds of each server, by concurrency."""
    added: dict[str, list[float]] = {server.name: [] for server in servers}
    print(
        f"\n{title}\n\n| callers | | p50 ms | p99 ms | added ms | edits a second | CPU ms |",
        "\n|---|---|---|---|---|---|---|",
        sep="",
    )
    for server in servers:
        measure(server, 1, 3)
    for concurrency in concurrencies:
        alone, *_ = figures = in_turns(servers, concurrency, requests)
        for server, figure in zip(servers, figures, strict=True):
            added[server.name].append(figure.p50 - alone.p50)
            times = f"{figure.p50:.1f} | {figure.p99:.1f} | {figure.p50 - alone.p50:.1f}"
            row = f"{concurrency} | {server.name} | {times} | {figure.per_second:.1f} | {figure.cpu_ms:.0f}"
            print(f"| {row} |", flush=True)
    return added


def compare(concurrencies: Sequence[int], requests: int, venv_folder: Path | None) -> None:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stub = free_port()
        stub_pid = stack.enter_context(running([sys.executable, __file__, "--stub", str(stub)], stub))
        ours, ours_pid = stack.enter_context(retouch(stub, folder))
        theirs, theirs_pid, version = stack.enter_context(litellm(stub, venv_folder or folder / "litellm"))
        theirs_name = f"LiteLLM {version}"
        ask = asks_by_form(form(MODEL, noise()))
        servers = [
            Server("the stub alone", stub, ask, stub_pid),
            Server("Retouch", ours, ask, ours_pid),
            Server(theirs_name, theirs, ask, theirs_pid),
        ]
        added = table("A form of 2 MB in, 2 MB of base64 out", servers, concurrencies, requests)
        servers = [
            Server("the stub alone", stub, straight_by_link(stub), stub_pid),
            Server("Retouch", ours, ours_by_link(stub), ours_pid),
        ]
        by_link = table("A link in, a link out, 2 MB downloaded from it", servers, concurrencies, requests)
    first, other = added["Retouch"][0], added[theirs_name][0]
    ratio = f"{first / other:.2f} of LiteLLM's (goal {GOAL_RATIO})"
    print(f"\nfewest callers, base64: {first:.1f} ms (goal {GOAL_BASE64_MS:g}), {ratio}")
    print(f"fewest callers, links: {by_link['Retouch'][0]:.1f} ms (goal {GOAL_LINK_MS:g})")


def straight_by_link(stub: int) -> Ask:
    content = [{"image": f"http://127.0.0.1:{stub}/image.png"}, {"text": "make it grey"}]
    body = {"model": MODEL, "input": {"messages": [{"role": "user", "content": content}]}}
    path = "/api/v1/services/aigc/multimodal-generation/generation"
    return asks_by_link(path, body, lambda a: str(a["output"]["choices"][0]["message"]["content"][0]["image"]))


def ours_by_link(stub: int) -> Ask:
    link = {"image_url": f"http://127.0.0.1:{stub}/image.png"}
    body = {"model": "qwen-image-2", "prompt": "make it grey", "images": [link], "response_format": "url"}
    return asks_by_link("/v1/images/edits", body, lambda answer: str(answer["data"][0]["url"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--litellm", type=Path, help="a virtual environment that has it, or gets it")
    parser.add_argument("--stub", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stub:
        run_stub(given.stub)
    else:
        compare(given.concurrency, given.requests, given.litellm)


if __name__ == "__main__":
    main()
