"""The connections of one upstream: kept open, watched while they write, and given up when their time is over.

What httpcore2 cannot tell from outside is told here: that the other side has answered before the body was sent (so the
rest is not sent and the answer is read), that a chunk was never begun, that another thread wants the exchange stopped.
Nothing here knows HTTP.
"""

from __future__ import annotations

import functools
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import httpcore2
import httpx2

CONNECT_TIMEOUT_S: Final = 5.0
KEEP_S: Final = 5.0
"""Idle life of a connection. Short: a submit on one that the other side has just closed may be of unknown outcome."""

SEND_BUFFER_BYTES: Final = 256 * 1024
"""Of the kernel. What lies in it counts as sent, so that a large one makes of a broken upload an unknown outcome."""

READ_BYTES: Final = 256 * 1024
"""Most that is taken from a connection at once: more than the pool's 64 KB, for an answer may have megabytes."""

_LOOK_EVERY_S: Final = 0.25
"""How often a wait looks up whether it is still wanted."""


_Selector: Final = getattr(selectors, "PollSelector", selectors.DefaultSelector)


@dataclass(slots=True)
class Exchange:
    """One request and its answer, as the connection sees it. ends_at: monotonic seconds; nothing waits beyond.

    sent: bytes of the body handed to the connection. unbegun: of those, the bytes of a last chunk of which not one
    went out. stop: set by another thread to give the exchange up.
    """

    ends_at: float
    write_s: float
    sent: int = 0
    unbegun: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def left_s(self) -> float:
        return self.ends_at - time.monotonic()


class Connections(httpx2.HTTPTransport):
    """httpx2's transport over a pool of watched connections, for one upstream. trust: None takes the system's roots.

    The parent's constructor is not called, for it has no argument for a backend (as in `storage/guard.py`).
    """

    def __init__(self, trust: ssl.SSLContext | None = None) -> None:
        self._current = threading.local()
        self._pool = httpcore2.ConnectionPool(
            ssl_context=trust or _public_authorities(),
            max_connections=None,
            max_keepalive_connections=64,
            keepalive_expiry=KEEP_S,
            network_backend=_Backend(self._current),
            retries=0,
        )

    @contextmanager
    def running(self, exchange: Exchange) -> Iterator[None]:
        """What this thread sends and reads inside belongs to `exchange`."""
        self._current.exchange = exchange
        try:
            yield
        finally:
            del self._current.exchange


@functools.cache
def _public_authorities() -> ssl.SSLContext:
    """One for all upstreams: reading the root certificates takes tens of milliseconds."""
    return httpx2.create_ssl_context(trust_env=False)


class _Backend(httpcore2.NetworkBackend):
    def __init__(self, current: threading.local) -> None:
        self._current = current
        self._plain = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - ours is the same for every upstream
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        patience = min(CONNECT_TIMEOUT_S, max(self._current.exchange.left_s, 0.001))
        options = [*(socket_options or ()), (socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)]
        stream = self._plain.connect_tcp(host, port, patience, local_address, options)
        return _Watched(stream, self._current)


class _Watched(httpcore2.NetworkStream):
    def __init__(self, stream: httpcore2.NetworkStream, current: threading.local) -> None:
        self._stream = stream
        self._current = current

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - the exchange has its own
        exchange: Exchange = self._current.exchange
        while True:
            try:
                patience = max(min(_LOOK_EVERY_S, exchange.left_s), 0.001)
                return self._stream.read(max(max_bytes, READ_BYTES), patience)
            except httpcore2.ReadTimeout:
                if exchange.stop.is_set():
                    raise httpcore2.ReadError("given up") from None
                if exchange.left_s <= 0:
                    raise

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002 - the exchange has its own
        """Raises WriteError when an answer or the end of the connection came before all was sent."""
        exchange: Exchange = self._current.exchange
        patience = min(exchange.write_s, exchange.left_s)
        sock = self._stream.get_extra_info("socket")
        if isinstance(sock, ssl.SSLSocket):
            # TLS has traffic of its own, so that an early answer cannot be told from it before the body is sent.
            self._stream.write(buffer, max(patience, 0.001))
            return
        left, until = memoryview(buffer), time.monotonic() + patience
        sock.settimeout(0)
        with _Selector() as selector:  # one for each chunk: of the kinds there are, the one that is cheapest to make
            selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE)
            while left:
                ready = selector.select(_LOOK_EVERY_S)
                events = ready[0][1] if ready else 0
                try:
                    # What can be read is an answer, or the end, unless it is informational, such as 100.
                    if events & selectors.EVENT_READ and not sock.recv(10, socket.MSG_PEEK).startswith(b"HTTP/1.1 1"):
                        raise OSError("it answered before everything was sent")
                    if events & selectors.EVENT_WRITE:
                        left = left[sock.send(left) :]
                        continue
                except BlockingIOError:
                    continue
                except OSError as error:
                    if len(left) == len(buffer):
                        exchange.unbegun = len(buffer)
                    raise httpcore2.WriteError(str(error)) from error
                if exchange.stop.is_set() or time.monotonic() >= until:
                    raise httpcore2.WriteTimeout("the other side does not read")

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, timeout or CONNECT_TIMEOUT_S)
        return _Watched(stream, self._current)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
