"""HTTP clients that can only reach public addresses; for every link that a caller gives.

The check stands where the connection is made: the host is resolved once, each address is judged, and the
connection goes to exactly the address that was judged, so neither a redirect nor a name that changes its
answer gets around it. What is sent and how much is read is not decided here.
"""

from __future__ import annotations

import functools
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import httpcore2
import httpx2

from retouch.errors import ForbiddenAddress
from retouch.storage.addresses import OpenedAddresses, is_public, is_suspect_name, plain_host

Resolver: TypeAlias = Callable[[str, int], Sequence[str]]
"""(host, port) to numeric addresses, best first; raises OSError for a name that is not known."""

CONNECT_TIMEOUT_S: Final = 5.0
READ_BYTES: Final = 256 * 1024
"""Most that is taken from a connection at once: more than the pool's 64 KB, for an image may have megabytes."""


def resolve_by_system(host: str, port: int) -> Sequence[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


def guarded_client(
    opened: OpenedAddresses, *, timeout_s: float, resolver: Resolver = resolve_by_system
) -> httpx2.Client:
    """A client for one exchange with a server of the caller's choice; ForbiddenAddress comes out of its requests.

    All it does together, from now on, ends after `timeout_s`, however slowly the other side drips. It takes
    no proxy or credentials from the environment, follows no redirect by itself and keeps no connection.
    """
    backend = _GuardedBackend(opened, resolver, Deadline.after(timeout_s))
    return httpx2.Client(
        transport=_GuardedTransport(backend),
        timeout=timeout_s,
        follow_redirects=False,
        trust_env=False,
        headers={"Accept-Encoding": "identity"},
    )


def check_host(host: str, port: int, opened: OpenedAddresses) -> None:
    """Refuse what needs no look-up to be refused; raises ForbiddenAddress."""
    if opened.include(host, port):
        return
    bare = plain_host(host)
    is_numeric = ":" in bare or bare.replace(".", "").isdigit()
    if is_suspect_name(host) or (is_numeric and not is_public(bare)):
        raise _forbidden(host)


def addresses_to_try(host: str, port: int, opened: OpenedAddresses, resolver: Resolver) -> tuple[str, ...]:
    """The addresses of `host` that may be connected to, at least one; raises ForbiddenAddress or OSError.

    A name with public and private addresses is reached by its public ones only.
    """
    check_host(host, port, opened)
    try:
        found = resolver(plain_host(host), port)
    except UnicodeError as error:
        raise OSError(f"'{host}' is not a name") from error
    if opened.include(host, port):
        return tuple(found)
    allowed = tuple(address for address in found if is_public(address) or opened.include(address, port))
    if not allowed:
        raise _forbidden(host)
    return allowed


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment of the monotonic clock that no operation may pass."""

    ends_at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        return cls(time.monotonic() + seconds)

    def cut(self, timeout_s: float | None) -> float:
        """`timeout_s` or what is left, whichever is shorter; raises when nothing is left."""
        left = self.ends_at - time.monotonic()
        if left <= 0:
            raise httpcore2.ReadTimeout("the time for the whole exchange is over")
        return left if timeout_s is None else min(timeout_s, left)


class _GuardedBackend(httpcore2.NetworkBackend):
    """Opens connections to judged addresses only. Unix sockets stay unsupported, as the parent has them."""

    def __init__(self, opened: OpenedAddresses, resolver: Resolver, deadline: Deadline) -> None:
        self._opened = opened
        self._resolver = resolver
        self._deadline = deadline
        self._plain = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - each try has its own, so that the next gets a turn
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        try:
            addresses = addresses_to_try(host, port, self._opened, self._resolver)
        except OSError as error:
            raise httpcore2.ConnectError(f"'{host}' cannot be found") from error
        failure: httpcore2.NetworkError | httpcore2.TimeoutException
        for address in addresses:
            patience = self._deadline.cut(CONNECT_TIMEOUT_S)
            try:
                # By the address that was judged: asked again, the name could lead to another one.
                stream = self._plain.connect_tcp(address, port, patience, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
                continue
            return _TimedStream(stream, self._deadline)
        raise failure


class _TimedStream(httpcore2.NetworkStream):
    """A connection whose every operation also ends at the deadline."""

    def __init__(self, stream: httpcore2.NetworkStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max(max_bytes, READ_BYTES), self._deadline.cut(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.cut(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, self._deadline.cut(timeout))
        return _TimedStream(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _GuardedTransport(httpx2.HTTPTransport):
    """httpx2's transport over a pool with our backend, which its own constructor has no argument for.

    The parent's constructor is not called: were its attribute to be renamed, every request would fail
    instead of going out unguarded.
    """

    def __init__(self, backend: httpcore2.NetworkBackend) -> None:
        self._pool = httpcore2.ConnectionPool(
            ssl_context=_tls(), max_keepalive_connections=0, network_backend=backend, retries=0
        )


@functools.cache
def _tls() -> ssl.SSLContext:
    """One context for all clients: reading the root certificates takes tens of milliseconds."""
    return httpx2.create_ssl_context(trust_env=False)


def _forbidden(host: str) -> ForbiddenAddress:
    return ForbiddenAddress(
        f"The host '{host[:100]}' is not a public address, so its link is not followed; "
        "the operator of this server can open it with --allow-private.",
        host=host[:100],
    )
