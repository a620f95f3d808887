"""One request to one upstream and its answer; what is known of a request that got none is told apart here.

Auth goes to the configured origin only, no redirect is followed, no cookie is kept, nothing of a caller's headers is
known here. The connections are kept open, watched while they write, and given up when their time is over, for httpcore2
does not tell from outside what decides whether a submit was taken: how many bytes may have left, and that the other
side has answered before the body was sent. It does not know what a body means: a kind's folder does.
"""

from __future__ import annotations

import functools
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final, TypeAlias
from urllib.parse import urlencode

import httpcore2
import httpx2

from retouch.errors import StorageUnavailable
from retouch.secret import MASK, redact
from retouch.upstreams.answers import Answer, AnswerReader, Unreadable
from retouch.upstreams.inputs import Body
from retouch.upstreams.upstream import Fault, FaultKind

WriteKey: TypeAlias = Callable[[str], str]
"""The value of an Authorization header for a scheme such as `Bearer`; empty when the upstream wants none."""

ANSWER_S: Final = 30.0
"""How long a provider that queues may take for any answer."""

WRITE_S: Final = 30.0
"""How long a provider may go without reading."""

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
_SHORTEST_HIDDEN: Final = 6
_USER_AGENT: Final = "Retouch"


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent. path: below the upstream's base, with a leading slash. ends_in_s: for all of it, answer
    included; None takes what is usual for the upstream. until: it ends then at the latest, but is given a second.

    authorized: False leaves the key out. attempt: names the exchange, so that `Transport.abandon` can end it.
    """

    method: str
    path: str
    body: Body | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    ends_in_s: float | None = None
    until: datetime | None = None
    authorized: bool = True
    attempt: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer. value: its JSON, None when it was none or broke off. Nothing else of a body is ever kept.

    answer: holds long base64 members of `value`; close it (the kinds do, through `Transport.ask`).
    """

    status: int
    headers: httpx2.Headers
    value: Any
    answer: Answer

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def members(self) -> Mapping[str, Any]:
        """The JSON object, empty when it is none."""
        return self.value if isinstance(self.value, dict) else {}


class Transport:
    """Connections to one origin with one key. base_url: scheme, host and the path that all requests begin with.

    trust: certificates to believe instead of the system's, for an upstream with its own authority.
    """

    def __init__(
        self,
        base_url: str,
        scheme: str,
        key: WriteKey,
        *,
        answer_s: float = ANSWER_S,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self._answer_s = answer_s
        self._base = httpx2.URL(base_url.rstrip("/"))
        self._scheme = scheme
        self._key = key
        self._connections = Connections(trust)
        self._client = httpx2.Client(
            transport=self._connections,
            follow_redirects=False,
            trust_env=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            headers={"User-Agent": _USER_AGENT, "Accept": "application/json", "Accept-Encoding": "identity"},
        )
        self._running: dict[str, Exchange] = {}
        self._lock = threading.Lock()

    @property
    def origin(self) -> tuple[str, int]:
        """Host and port, as the connect guard knows addresses."""
        return self._base.host, self._base.port or {"http": 80, "https": 443}[self._base.scheme]

    @property
    def base_url(self) -> str:
        return str(self._base)

    def path_of(self, url: object) -> str | None:
        """The path below the base of a link that the provider gave, or None when it leads anywhere else."""
        base = self.base_url
        return url[len(base) :] if isinstance(url, str) and url.startswith(f"{base}/") else None

    @contextmanager
    def ask(self, request: Request) -> Iterator[Reply | Fault]:
        """The answer, whose long members live until the end of the block; or why there was none.

        Raises StorageUnavailable or UnknownFile when our own store fails while the body is read; then fewer bytes
        than announced were sent, so nothing was accepted.
        """
        reply = self._send(request)
        try:
            yield reply
        finally:
            if isinstance(reply, Reply):
                reply.answer.close()

    def abandon(self, attempt: str) -> bool:
        """Close the connection of an exchange under way; True when there was one."""
        with self._lock:
            exchange = self._running.get(attempt)
        if exchange is None:
            return False
        exchange.stop.set()
        return True

    def close(self) -> None:
        self._client.close()

    def _send(self, request: Request) -> Reply | Fault:
        ends_in_s = self._answer_s if request.ends_in_s is None else request.ends_in_s
        if request.until is not None:
            ends_in_s = min(ends_in_s, max((request.until - datetime.now(UTC)).total_seconds(), 1.0))
        exchange = Exchange(time.monotonic() + ends_in_s)
        query = f"?{urlencode(request.query)}" if request.query else ""
        url, body = f"{self._base}{request.path}{query}", request.body
        headers = dict(request.headers)
        if request.authorized and (value := self._key(self._scheme).strip()):
            headers["Authorization"] = value
        if body is not None:
            headers |= {"Content-Type": body.content_type, "Content-Length": str(body.length)}
        elif request.method != "GET":
            headers["Content-Length"] = "0"
        content = None if body is None else _counted(body, exchange)
        if request.attempt is not None:
            with self._lock:
                self._running[request.attempt] = exchange
        try:
            with (
                self._connections.running(exchange),
                self._client.stream(request.method, url, content=content, headers=headers) as response,
            ):
                return self._read(response)
        except httpx2.LocalProtocolError as error:
            raise StorageUnavailable("A stored image changed its size while it was sent.") from error
        except httpx2.HTTPError as error:
            # What was handed to the connection may have arrived, except a chunk of which not one byte went out.
            return self._fault(error, exchange.sent - exchange.unbegun, 0 if body is None else body.length)
        finally:
            if request.attempt is not None:
                with self._lock:
                    self._running.pop(request.attempt, None)

    def _read(self, response: httpx2.Response) -> Reply:
        events = response.headers.get("content-type", "").startswith("text/event-stream")
        reader = AnswerReader(events=events, hide=self._hide)
        try:
            for piece in response.iter_raw():
                reader.feed(piece)
            answer = reader.end()
        except (Unreadable, httpx2.HTTPError):
            answer = reader.broken()
        return Reply(response.status_code, response.headers, answer.value, answer)

    def _hide(self, text: bytes) -> bytes:
        """An answer without keys, which providers like to repeat."""
        own = self._key("").strip()
        plain = redact(text.decode(errors="surrogateescape"))
        return (plain.replace(own, MASK) if len(own) >= _SHORTEST_HIDDEN else plain).encode(errors="surrogateescape")

    def _fault(self, error: httpx2.HTTPError, sent: int, length: int) -> Fault:
        host = self._base.host
        if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout):
            if _is_tls(error):
                return Fault(FaultKind.TLS, f"The certificate of '{host}' is not believed.", charged=False)
            return Fault(FaultKind.UNREACHABLE, f"'{host}' could not be reached.", charged=False)
        if sent < length:
            message = f"The connection to '{host}' ended after {sent} of {length} bytes."
            return Fault(FaultKind.INTERRUPTED, message, charged=False)
        return Fault(FaultKind.NO_ANSWER, f"'{host}' took the request and gave no answer.")


def _counted(body: Body, exchange: Exchange) -> Iterator[bytes]:
    """The body, counted before each chunk is handed on: what was handed on may have arrived."""
    for chunk in body.chunks():
        exchange.sent += len(chunk)
        yield chunk


def _is_tls(error: BaseException) -> bool:
    """Whether a certificate or the handshake was the reason, and not the connection below it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


@dataclass(slots=True)
class Exchange:
    """One request and its answer, as the connection sees it. ends_at: monotonic seconds; nothing waits beyond.

    sent: bytes of the body handed to the connection. unbegun: of those, the bytes of a last chunk of which not one
    went out. stop: set by another thread to give the exchange up.
    """

    ends_at: float
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
        patience = min(WRITE_S, exchange.left_s)
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
