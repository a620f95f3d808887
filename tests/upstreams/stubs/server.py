"""A provider on a real socket. What it does wrong, and when, is scripted by station; what it does right is the kind's.

    stub.script("submit", Reset(at=0.5))        the next submit is reset after half of its body
    stub.script("poll", Says(502, b"<html>"))   the next poll gets a proxy's page

Stations are `submit`, `poll`, `result`, `cancel`, `history`, `upload`, `download` and `keys`. `stub.seen` is every
request as it arrived, `stub.bill` what each job costs, in millionths of a dollar.
"""

from __future__ import annotations

import contextlib
import io
import json
import secrets
import socket
import ssl
import struct
import threading
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from PIL import Image

PRICE_MICROUSD = 30_000


@dataclass(frozen=True)
class Says:
    """Answer this instead, after the whole body was read."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    early_at: float | None = None  #: answer after this part of the body, then read no more

    @classmethod
    def json(cls, status: int, value: Any, **headers: str) -> Says:
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        return cls(status, json.dumps(value).encode(), {"Content-Type": "application/json", **named})


@dataclass(frozen=True)
class Reset:
    """Reset the connection after this part of the body."""

    at: float = 1.0


@dataclass(frozen=True)
class Closes:
    """Take everything, do what was asked, and close without an answer."""

    works: bool = True


@dataclass(frozen=True)
class Silence:
    """Take everything, do what was asked, and say nothing until the other side goes."""

    works: bool = True


@dataclass(frozen=True)
class Cut:
    """The right answer, cut in the middle of its body."""


Behaviour = Says | Reset | Closes | Silence | Cut


@dataclass(frozen=True)
class Seen:
    """A request as it arrived. sent: bytes of its body that were read."""

    station: str
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    target: str = ""  #: path and query as they were sent

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class StubJob:
    """A job. plan: the states that the next polls tell, the last one for ever: queued, running, done, cancelled, aborted."""

    id: str
    input: Mapping[str, Any]
    plan: deque[str]
    webhook: str | None = None
    images: int = 1

    @property
    def state(self) -> str:
        return self.plan[0]

    def step(self) -> str:
        """The state of this poll."""
        return self.plan.popleft() if len(self.plan) > 1 else self.plan[0]


class StubProvider:
    """The part of every stub that is the same. A kind says which station a request is for and what the answer is."""

    base = ""  #: path of the upstream's base_url below `url`

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.jobs: dict[str, StubJob] = {}
        self.bill: dict[str, int] = {}
        self.files: dict[str, bytes] = {}
        self.plan: tuple[str, ...] = ("queued", "running", "done")
        self.image = png()
        self.images = 1
        self.tls: ssl.SSLContext | None = None
        self._scripts: dict[str, deque[Behaviour]] = defaultdict(deque)
        self._lock = threading.RLock()
        self._listening = socket.socket()
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)  # what is not read is not taken
        self._listening.bind(("127.0.0.1", 0))
        self._listening.listen(128)
        self._open: set[socket.socket] = set()
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def base_url(self) -> str:
        return f"{self.url}{self.base}"

    def script(self, station: str, *behaviours: Behaviour) -> None:
        self._scripts[station].extend(behaviours)

    def at(self, station: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.station == station]

    def station(self, method: str, path: str) -> str:
        raise NotImplementedError

    def answer(self, request: Seen) -> Says:
        raise NotImplementedError

    def new_job(self, given: Mapping[str, Any], *, webhook: str | None = None, images: int | None = None) -> StubJob:
        job = StubJob(f"job-{secrets.token_hex(8)}", given, deque(self.plan), webhook, images or self.images)
        self.jobs[job.id] = job
        return job

    def results_of(self, job: StubJob, *, price: int = PRICE_MICROUSD) -> list[str]:
        """Links of a finished job's images; from now on it is on the bill."""
        self.bill[job.id] = price * job.images
        links = []
        for number in range(job.images):
            self.files.setdefault(f"{job.id}-{number}", self.image)
            links.append(f"{self.url}/results/{job.id}-{number}")
        return links

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # what is closed inside `accept` goes on listening
        self._listening.close()
        for connection in list(self._open):
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        if self.tls is not None:
            try:
                connection = self.tls.wrap_socket(connection, server_side=True)
            except OSError:
                connection.close()
                return
            self._open.add(connection)
        reader = connection.makefile("rb")
        try:
            while line := reader.readline():
                if not self._one(connection, reader, line):
                    return
        except OSError:
            pass
        finally:
            self._open.discard(connection)
            reader.close()
            connection.close()

    def _one(self, connection: socket.socket, reader: io.BufferedReader, line: bytes) -> bool:
        """One request; whether the connection stays."""
        method, target, _ = line.decode().split(" ", 2)
        headers = {}
        while (header := reader.readline()) not in (b"\r\n", b""):
            name, _, value = header.decode().partition(":")
            headers[name.strip().lower()] = value.strip()
        parts = urlsplit(target)
        station = self.station(method, parts.path)
        if parts.path.startswith("/results/"):
            station = "download" if method == "GET" else "upload"
        with self._lock:
            waiting = self._scripts[station]
            behaviour = waiting.popleft() if waiting else None
        share = behaviour.at if isinstance(behaviour, Reset) else 1.0
        if isinstance(behaviour, Says) and behaviour.early_at is not None:
            share = behaviour.early_at
        wanted = int(int(headers.get("content-length", "0")) * share)
        body = reader.read(wanted)
        if len(body) < wanted:
            return False  # it broke off, so there is no request
        request = Seen(station, method, parts.path, dict(parse_qsl(parts.query)), headers, body, target)
        with self._lock:
            self.seen.append(request)
        return self._answered(connection, reader, request, behaviour)

    def _answered(
        self, connection: socket.socket, reader: io.BufferedReader, request: Seen, behaviour: Behaviour | None
    ) -> bool:
        """What was asked, or what was scripted instead; whether the connection stays."""
        if isinstance(behaviour, Reset):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            reader.close()
            connection.close()
            return False
        if isinstance(behaviour, Says):
            self._send(connection, behaviour)
            if behaviour.early_at is not None:
                connection.shutdown(socket.SHUT_WR)
                connection.settimeout(5)
                while reader.read1(65536):
                    pass
            return behaviour.early_at is None
        works = getattr(behaviour, "works", True)
        with self._lock:
            answer = self._usual(request) if works else Says(500)
        if isinstance(behaviour, Silence):
            connection.settimeout(30)
            connection.recv(1)
        elif not isinstance(behaviour, Closes):
            self._send(connection, answer, cut=isinstance(behaviour, Cut))
        return behaviour is None

    def _usual(self, request: Seen) -> Says:
        if request.path.startswith("/results/"):
            data = self.files.get(request.path.removeprefix("/results/"))
            if request.method == "PUT":
                self.files[request.path.removeprefix("/results/")] = request.body
                return Says(200)
            return Says(404) if data is None else Says(200, data, {"Content-Type": "image/png"})
        return self.answer(request)

    def _send(self, connection: socket.socket, answer: Says, *, cut: bool = False) -> None:
        lines = [f"HTTP/1.1 {answer.status} Said", f"Content-Length: {len(answer.body)}"]
        lines += [f"{name}: {value}" for name, value in answer.headers.items()]
        body = answer.body[: len(answer.body) // 2] if cut else answer.body
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode() + body)


def png(width: int = 8, height: int = 6, shade: int = 128) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (shade, 0, 255 - shade)).save(buffer, "PNG")
    return buffer.getvalue()


def jpeg(width: int = 8, height: int = 6) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (200, 10, 10)).save(buffer, "JPEG")
    return buffer.getvalue()
