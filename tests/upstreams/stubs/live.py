"""A live Retouch as a provider, behind the same socket as every stub: what is scripted goes wrong on the way to it."""

from __future__ import annotations

import http.client

from tests.live_server import LiveServer
from tests.upstreams.stubs.server import Says, Seen, StubProvider

_HOP_BY_HOP = ("content-length", "connection", "transfer-encoding", "date", "server")


class LiveStub(StubProvider):
    def __init__(self, server: LiveServer, base: str) -> None:
        super().__init__()
        self.base = base
        self._server = server

    def station(self, method: str, path: str) -> str:
        words = path.strip("/").split("/")
        if "files" in words or "cdn" in words:
            return "download" if method == "GET" else "upload"
        if "api" in words:
            return "history"
        if "rest" in words:
            return "keys" if "jwks.json" in path else "upload"
        if "cancel" in words:
            return "cancel"
        if "status" in words:
            return "poll"
        return "submit" if method == "POST" else "result"

    def answer(self, request: Seen) -> Says:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=30)
        connection.request(request.method, request.target, request.body, dict(request.headers))
        answer = connection.getresponse()
        body = answer.read()
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP}
        connection.close()
        return Says(answer.status, body, headers)
