"""A forward proxy that leads to this server, for clients whose host names no variable changes.

It answers CONNECT for the vendors' hosts only and joins the caller to this server, which has a certificate for those
names. It resolves no name, reads nothing of what passes, and refuses every other host.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import structlog

from retouch.protocols.registry import VENDOR_HOSTS

logger = structlog.get_logger(__name__)

HEAD_WITHIN_S = 10.0
MAX_HEAD_BYTES = 8 * 1024
CHUNK_BYTES = 64 * 1024

_GONE = (ConnectionError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)


@contextmanager
def forward_proxy(listener: socket.socket, server: tuple[str, int]) -> Iterator[None]:
    """Serve from a thread of its own until the end. `listener` is bound; `server` is where this server listens."""
    stopped, loop = asyncio.Event(), asyncio.new_event_loop()
    thread = threading.Thread(target=_run, args=(loop, listener, server, stopped), name="forward-proxy", daemon=True)
    thread.start()
    try:
        yield
    finally:
        with suppress(RuntimeError):  # the loop ended by itself
            loop.call_soon_threadsafe(stopped.set)
        thread.join()


def refusal_of(head: bytes) -> tuple[str, str] | None:
    """Status line and sentence for a request that leads nowhere from here; None for one of the vendors' hosts."""
    method, _, rest = head.decode("latin-1").partition(" ")
    host, _, port = rest.partition(" ")[0].rpartition(":")
    if method != "CONNECT":
        return "405 Method Not Allowed", "This is a proxy for https to the vendors' hosts; it takes CONNECT only."
    if port != "443" or host.lower().rstrip(".") not in VENDOR_HOSTS:
        return (
            "403 Forbidden",
            "This proxy leads to the vendors' hosts on port 443 only; unset HTTPS_PROXY for others.",
        )
    return None


def _run(
    loop: asyncio.AbstractEventLoop, listener: socket.socket, server: tuple[str, int], stopped: asyncio.Event
) -> None:
    async def serve() -> None:
        async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(*_GONE, asyncio.CancelledError):  # at the end; nothing waits for this task
                await _meet(reader, writer, server)
            writer.close()

        served = await asyncio.start_server(meet, sock=listener, limit=MAX_HEAD_BYTES)
        await stopped.wait()
        served.close()

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(serve())


async def _meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: tuple[str, int]) -> None:
    async with asyncio.timeout(HEAD_WITHIN_S):
        head = await reader.readuntil(b"\r\n\r\n")
    refusal = refusal_of(head)
    if refusal is not None:
        body = f"{refusal[1]}\n".encode()
        head_back = f"HTTP/1.1 {refusal[0]}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head_back.encode() + body)
        await writer.drain()
        return
    inner_reader, inner_writer = await asyncio.open_connection(*server)
    try:
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        ways = {asyncio.create_task(_copy(reader, inner_writer)), asyncio.create_task(_copy(inner_reader, writer))}
        _, open_ones = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in open_ones:
            way.cancel()
    finally:
        inner_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until either side is gone."""
    with suppress(*_GONE):
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
