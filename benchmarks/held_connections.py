"""What callers who wait on the line cost: `/health` and the server's memory beside held `status-sync` connections.

    python benchmarks/held_connections.py [--callers 200] [--rounds 50]

A server without a worker has one job that never starts. `/health` is asked over one connection, in turns of a round
without a waiting caller and a round while every caller's connection is held; the memory is the resident size of the
server's process before and while they are held.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.live_server import LiveServer, live_server
from tests.sdk.fal import DATA_URI

ENDPOINT = "qwen-image-edit"
HELD_MS = 300_000
WARM_UPS = 20


def resident_mb(pid: int) -> float:
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match[1]) / 1024


async def hold(server: LiveServer, job: str) -> asyncio.StreamWriter:
    """A connection that waits for the job; its answer is not read."""
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    path = f"/v2/{ENDPOINT}/status-sync/{job}?wait={HELD_MS}"
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nAuthorization: any\r\n\r\n".encode())
    return writer


async def health_ms(client: httpx.AsyncClient, rounds: int) -> list[float]:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        (await client.get("/health")).raise_for_status()
        times.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(0.02)
    return times


async def measure(server: LiveServer, callers: int, rounds: int) -> None:
    async with httpx.AsyncClient(base_url=server.url) as client:
        body = {"input": {"prompt": "make it snow", "image": DATA_URI}}
        job = (await client.post(f"/v2/{ENDPOINT}/run", json=body)).raise_for_status().json()["id"]
        await health_ms(client, WARM_UPS)
        before_mb = resident_mb(server.process.pid)
        alone = await health_ms(client, rounds)
        held = [await hold(server, job) for _ in range(callers)]
        await health_ms(client, WARM_UPS)
        while_held = await health_ms(client, rounds)
        grown_mb = resident_mb(server.process.pid) - before_mb
        for writer in held:
            writer.close()
    for name, times in (("none waits", alone), (f"{callers} wait", while_held)):
        print(f"{name}: /health median {statistics.median(times):.1f} ms, largest {max(times):.1f} ms")
    print(f"ratio of the medians {statistics.median(while_held) / statistics.median(alone):.2f}")
    print(f"memory of the server: {before_mb:.0f} MB before, {grown_mb:+.1f} MB while {callers} wait")
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--callers", type=int, default=200)
    options.add_argument("--rounds", type=int, default=50)
    given = options.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        live_server(Path(folder), ready=False, arguments=("--workers", "0")) as server,
    ):
        asyncio.run(measure(server, given.callers, given.rounds))


if __name__ == "__main__":
    main()
