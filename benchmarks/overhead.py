"""Added time of the server around a pipeline that computes nothing, beside a plain FastAPI echo of the same bytes.

    python benchmarks/overhead.py [--requests 60] [--concurrency 1 8 64]
    python benchmarks/overhead.py --requests 150 --beside CHECKOUT    (this server and that of another version instead)

Both servers run at the same time on the same machine, one process each (Retouch has a worker process besides),
and are asked in turns, so that a busy machine slows both. Every request is a multipart form with one PNG of
2 MB to `/v1/images/edits`; every answer is JSON with 2 MB of image as base64. The echo parses the form and
answers the bytes it got. Retouch does all it does for a real edit: it checks and stores the image, commits
the job, wakes the worker, which decodes, runs four empty steps, encodes and stores the result, commits the end
and the bill, and the answer is read back. The image is noise, which makes 2 MB of few pixels; the second
table sends the same pixels as BMP, which takes next to no decoding.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import http.client
import io
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import uvicorn
from fastapi import FastAPI, File, Form, UploadFile
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from retouch import images
from tests.live_server import free_port, live_server

SIDE = 832
PATH = "/v1/images/edits"
BOUNDARY = "benchmark-boundary"
GOAL = 1.5
STAGES = ("stage_in", "prepare", "denoise", "decode", "stage_out")


@dataclass(frozen=True)
class Figures:
    """Times of one server at one concurrency, in milliseconds."""

    times_ms: tuple[float, ...]
    elapsed_s: float

    @property
    def p50(self) -> float:
        return statistics.median(self.times_ms)

    @property
    def p99(self) -> float:
        return sorted(self.times_ms)[min(len(self.times_ms) - 1, int(len(self.times_ms) * 0.99))]

    @property
    def per_second(self) -> float:
        return len(self.times_ms) / self.elapsed_s


def noise_image(format: str = "png") -> bytes:  # noqa: A002 - Pillow's word
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    if format == "png":
        return images.encode(pixels, "png")
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


def form(image: bytes) -> bytes:
    fields = {"prompt": "make it grey", "size": f"{SIDE}x{SIDE}", "response_format": "b64_json", "seed": "7"}
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n'
        "Content-Type: image/png\r\n\r\n"
    )
    return b"".join(parts) + head.encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode()


def ask(connection: http.client.HTTPConnection, body: bytes) -> bytes:
    connection.request("POST", PATH, body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})
    answer = connection.getresponse()
    data = answer.read()
    assert answer.status == 200, (answer.status, data[:300])
    return data


def measure(port: int, body: bytes, concurrency: int, requests: int) -> Figures:
    """`requests` requests in all from `concurrency` threads with a connection each."""
    times_ms: list[float] = []
    left = iter(range(requests))
    lock = threading.Lock()
    errors: list[Exception] = []

    def caller() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        try:
            while True:
                with lock:
                    if next(left, None) is None:
                        return
                began = time.perf_counter()
                ask(connection, body)
                times_ms.append((time.perf_counter() - began) * 1000)
        except (AssertionError, OSError, http.client.HTTPException) as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=caller) for _ in range(concurrency)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return Figures(tuple(times_ms), time.perf_counter() - began)


def in_turns(ports: Sequence[int], body: bytes, concurrency: int, requests: int, rounds: int) -> list[Figures]:
    """Figures of each server; they are asked by turns, `rounds` times."""
    parts = [[measure(port, body, concurrency, requests // rounds) for port in ports] for _ in range(rounds)]
    return [
        Figures(tuple(t for part in parts for t in part[index].times_ms), sum(part[index].elapsed_s for part in parts))
        for index in range(len(ports))
    ]


def stages_ms(port: int, body: bytes, requests: int) -> dict[str, float]:
    """Median milliseconds of the worker's stages, as the answers tell them."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    answers = [json.loads(ask(connection, body))["timings"] for _ in range(requests)]
    connection.close()
    return {name: statistics.median(answer[name] for answer in answers) * 1000 for name in STAGES}


def codec_ms(image: bytes) -> dict[str, float]:
    """Median milliseconds of the work on the image that any server of real edits has to do."""
    pixels = images.decode(image)

    def median(work: object) -> float:
        times = []
        for _ in range(15):
            began = time.perf_counter()
            work()  # type: ignore[operator]
            times.append((time.perf_counter() - began) * 1000)
        return statistics.median(times)

    return {
        "check at submit": median(lambda: images.probe(image)),
        "decode": median(lambda: images.decode(image)),
        "encode": median(lambda: images.encode(pixels, "png")),
    }


@contextlib.contextmanager
def echo_server() -> Iterator[int]:
    port = free_port()
    process = subprocess.Popen([sys.executable, __file__, "--echo", str(port)])
    try:
        for _ in range(200):
            with contextlib.suppress(OSError):
                http.client.HTTPConnection("127.0.0.1", port, timeout=1).connect()
                break
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


def run_echo(port: int) -> None:
    """The plainest server with this contract: FastAPI reads the form, standard base64 and JSON answer it."""
    app = FastAPI()

    @app.post(PATH)
    async def echo(image: UploadFile = File(), prompt: str = Form()) -> dict[str, object]:  # noqa: B008
        data = await image.read()
        return {"created": 0, "data": [{"b64_json": base64.b64encode(data).decode()}]}

    config = uvicorn.Config(app, "127.0.0.1", port, log_level="error", http="httptools", loop="uvloop")
    asyncio.run(uvicorn.Server(config).serve())


def compare(concurrencies: Sequence[int], requests: int) -> None:
    """Print a table for each kind of file, and where the time of one caller goes."""
    with (
        tempfile.TemporaryDirectory() as folder,
        echo_server() as echo,
        live_server(Path(folder), arguments=("--log-level", "warning")) as server,
    ):
        for kind in ("png", "bmp"):
            image = noise_image(kind)
            body = form(image)
            for port in (echo, server.port):
                measure(port, body, 1, 20)
            print(f"\n{len(image) / 1e6:.2f} MB {kind.upper()}, {SIDE} x {SIDE} pixels of noise\n")
            print("| c | echo p50 / p99 ms | rps | retouch p50 / p99 ms | rps | ratio of p50 |")
            print("|---|---|---|---|---|---|")
            results = [
                in_turns((echo, server.port), body, c, max(requests, 2 * c), 3)
                for c in (concurrencies if kind == "png" else concurrencies[:1])
            ]
            for concurrency, (plain, ours) in zip(concurrencies, results, strict=False):
                print(
                    f"| {concurrency} | {plain.p50:.1f} / {plain.p99:.1f} | {plain.per_second:.1f} "
                    f"| {ours.p50:.1f} / {ours.p99:.1f} | {ours.per_second:.1f} | {ours.p50 / plain.p50:.2f} |"
                )
            tell_where_the_time_goes(*results[0], stages_ms(server.port, body, 15), codec_ms(image))


def compare_versions(checkout: Path, requests: int) -> None:
    """Print a table of this server and another version's with one caller each, who ask by turns."""
    quiet, other_sources = ("--log-level", "warning"), {"PYTHONPATH": str(checkout.resolve() / "src")}
    with (
        tempfile.TemporaryDirectory() as one,
        tempfile.TemporaryDirectory() as two,
        live_server(Path(one), arguments=quiet, environment=other_sources) as other,
        live_server(Path(two), arguments=quiet) as this,
    ):
        print("\n| one caller | the other's p25 / p50 ms | this one's | ratio of p25 | of p50 |")
        print("|---|---|---|---|---|")
        for kind in ("png", "bmp"):
            body = form(noise_image(kind))
            for server in (other, this):
                measure(server.port, body, 1, 20)
            figures = in_turns((other.port, this.port), body, 1, requests, requests)
            (a25, a50, _), (b25, b50, _) = (statistics.quantiles(each.times_ms, n=4) for each in figures)
            ratios = f"{b25 / a25:.3f} | {b50 / a50:.3f}"
            print(f"| {kind.upper()} | {a25:.1f} / {a50:.1f} | {b25:.1f} / {b50:.1f} | {ratios} |")


def tell_where_the_time_goes(plain: Figures, ours: Figures, stages: dict[str, float], codec: dict[str, float]) -> None:
    pixels = sum(codec.values())
    rest = ours.p50 - pixels
    print("\nworker's stages, ms:", ", ".join(f"{name} {value:.1f}" for name, value in stages.items()))
    print("work on pixels, ms:", ", ".join(f"{name} {value:.1f}" for name, value in codec.items()))
    print(
        f"one caller: {ours.p50:.1f} ms = {pixels:.1f} on pixels + {rest:.1f} on all else (form, store, queue, "
        f"base64); echo {plain.p50:.1f} ms; all else / echo {rest / plain.p50:.2f}; goal for the whole {GOAL}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=90, help="per server and concurrency")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--beside", type=Path, help="a checkout of another version")
    parser.add_argument("--echo", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.echo:
        run_echo(arguments.echo)
    elif arguments.beside:
        compare_versions(arguments.beside, arguments.requests)
    else:
        compare(arguments.concurrency, arguments.requests)


if __name__ == "__main__":
    main()
