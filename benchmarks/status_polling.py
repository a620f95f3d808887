"""How long a status takes while fifty callers poll as fal's Python client does, beside a plain `/health`.

    python benchmarks/status_polling.py [--callers 50] [--rounds 100]

A server with a key and without a worker has one waiting request for each caller, so that every status has a
position to count. Each caller keeps one connection, asks for its status, pauses for the client's default of
0.1 s, asks for `/health`, pauses, and so on: both kinds meet the same load in the same run. Times at the caller
are from the first byte sent to the last byte read; times at the server are those of its own log.
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
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.live_server import LiveServer, live_server
from tests.sdk.fal import EDIT, arguments

PAUSE_S = 0.1
GOAL_MS = 50.0
STATUS, HEALTH = "status", "health"


@dataclass
class Figures:
    """Milliseconds of each answer at the caller, and how many answers were not 200 or 202."""

    times_ms: dict[str, list[float]] = field(default_factory=lambda: {STATUS: [], HEALTH: []})
    refused: int = 0


def submitted(server: LiveServer, callers: int) -> list[str]:
    """The path of the status of one waiting request for each caller."""
    paths = []
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Key {server.key}"}) as client:
        for seed in range(callers):
            answer = client.post(f"/fal/queue/{EDIT}", json=arguments(seed=seed)).raise_for_status().json()
            paths.append(httpx.URL(answer["status_url"]).path)
    return paths


async def caller(server: LiveServer, status_path: str, rounds: int, figures: Figures) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    headers = f"Host: 127.0.0.1:{server.port}\r\nAuthorization: Key {server.key}\r\n"
    try:
        for _ in range(rounds):
            for kind, path in ((STATUS, f"{status_path}?logs=false"), (HEALTH, "/health")):
                began = time.perf_counter()
                writer.write(f"GET {path} HTTP/1.1\r\n{headers}\r\n".encode())
                answer = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", answer)
                await reader.readexactly(int(length[1]) if length else 0)
                figures.times_ms[kind].append((time.perf_counter() - began) * 1000)
                figures.refused += answer[9:12] not in (b"200", b"202")
                await asyncio.sleep(PAUSE_S)
    finally:
        writer.close()


async def poll(server: LiveServer, paths: Sequence[str], rounds: int) -> Figures:
    figures = Figures()
    await asyncio.gather(*(caller(server, path, rounds, figures) for path in paths))
    return figures


def server_times_ms(log: str) -> dict[str, list[float]]:
    """The same answers as the server timed them."""
    found: dict[str, list[float]] = {STATUS: [], HEALTH: []}
    for match in re.finditer(r"elapsed_ms=([\d.]+) method=GET path=(\S+)", log):
        kind = HEALTH if match[2] == "/health" else STATUS if match[2].endswith("/status") else None
        if kind is not None:
            found[kind].append(float(match[1]))
    return found


def row(name: str, times_ms: dict[str, list[float]]) -> str:
    columns = []
    for part in (50, 95, 99):
        status, health = (statistics.quantiles(times_ms[kind], n=100)[part - 1] for kind in (STATUS, HEALTH))
        columns.append(f"{status:6.2f} / {health:6.2f} ({status / max(health, 0.05):4.1f})")
    return f"| {name} | {' | '.join(columns)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callers", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    quiet = ("--workers", "0", "--log-level", "debug")
    with (
        tempfile.TemporaryDirectory() as folder,
        live_server(Path(folder), key=True, ready=False, arguments=quiet) as server,
    ):
        figures = asyncio.run(poll(server, submitted(server, options.callers), options.rounds))
        at_the_server = server_times_ms(server.log())
    print(
        f"{options.callers} callers, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores: status / health (ratio)"
    )
    print("| ms | p50 | p95 | p99 |\n|---|---|---|---|")
    print(row("at the caller", figures.times_ms))
    print(row("at the server", at_the_server))
    p95 = statistics.quantiles(figures.times_ms[STATUS], n=100)[94]
    print(f"refused: {figures.refused}; the goal of {GOAL_MS:g} ms at p95: {'yes' if p95 < GOAL_MS else 'NO'}")
    return 0 if p95 < GOAL_MS and not figures.refused else 1


if __name__ == "__main__":
    sys.exit(main())
