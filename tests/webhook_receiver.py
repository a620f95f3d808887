"""A receiver of webhooks on the loopback address that answers as it is told and remembers what came."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True, slots=True)
class Delivery:
    """One request as it arrived; header names in lower case."""

    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """answers: statuses for the next requests, in order; 200 when there is none left."""

    url: str = ""
    address: str = ""
    answers: list[int] = field(default_factory=list)
    came: queue.Queue[Delivery] = field(default_factory=queue.Queue)

    def next(self, within_s: float = 20) -> Delivery:
        return self.came.get(timeout=within_s)


@contextlib.contextmanager
def webhook_receiver(*answers: int) -> Iterator[Receiver]:
    receiver = Receiver(answers=list(answers))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            # Before the answer: the sender may look as soon as it is answered.
            receiver.came.put(Delivery({name.lower(): value for name, value in self.headers.items()}, body))
            status = receiver.answers.pop(0) if receiver.answers else 200
            self.send_response(status)
            self.send_header("location", "/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.address = f"127.0.0.1:{server.server_port}"
    receiver.url = f"http://{receiver.address}/hook?a=1&b=2"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
