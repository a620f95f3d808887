"""What a reverse proxy says about the address its caller used, believed only from peers the operator has named.

Without such a peer the headers mean nothing: any caller can send them. `--public-url` needs neither.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

from retouch.errors import InvalidSetting

EVERY_PEER = "*"


class ForwardedHeaders:
    """Moves X-Forwarded-Proto and X-Forwarded-Host of trusted peers into the scheme and the Host header (ASGI).

    trusted: addresses or networks such as `10.0.0.0/8`, or `*` for every peer, as uvicorn's `--forwarded-allow-ips`.
    Raises InvalidSetting for anything else.
    """

    def __init__(self, app: ASGIApp, trusted: Sequence[str]) -> None:
        self._app = app
        self._every_peer = EVERY_PEER in trusted
        try:
            self._networks = [ipaddress.ip_network(name, strict=False) for name in trusted if name != EVERY_PEER]
        except ValueError as error:
            raise InvalidSetting(
                f"--forwarded-allow-ips takes addresses, networks such as 10.0.0.0/8, or '*': {error}."
            ) from None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and self._is_trusted(scope):
            scope = {**scope, "headers": list(scope["headers"])}
            headers = MutableHeaders(scope=scope)
            # Each proxy on the way adds to the end; the first value is what the caller used.
            scheme = headers.get("x-forwarded-proto", "").partition(",")[0].strip().lower()
            if scheme in ("http", "https"):
                scope["scheme"] = {"http": "ws", "https": "wss"}[scheme] if scope["type"] == "websocket" else scheme
            host = headers.get("x-forwarded-host", "").partition(",")[0].strip()
            if host:
                headers["host"] = host
        await self._app(scope, receive, send)

    def _is_trusted(self, scope: Scope) -> bool:
        if self._every_peer or not self._networks:
            return self._every_peer
        try:
            peer = ipaddress.ip_address((scope.get("client") or ("", 0))[0])
        except ValueError:
            return False
        return any(peer in network for network in self._networks)
