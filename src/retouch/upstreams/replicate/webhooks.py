"""Whether a webhook is Replicate's: HMAC-SHA256 over its id, time and body, with a secret that our key may read."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from retouch.upstreams.transport import Reply, Request, Transport

MAX_AGE_S: Final = 300.0
_ASKED_AGAIN_S: Final = 60.0


class WebhookSecret:
    """Verifies signatures; thread-safe. The secret is read when the first webhook comes, and again after a bad one."""

    def __init__(self, transport: Transport, *, clock: Callable[[], float] = time.time) -> None:
        self._transport = transport
        self._clock = clock
        self._lock = threading.Lock()
        self._secret = b""
        self._read_at = float("-inf")

    def verified(self, headers: Mapping[str, str], body: bytes) -> bool:
        named = {name.lower(): value for name, value in headers.items()}
        number, moment = named.get("webhook-id", ""), named.get("webhook-timestamp", "")
        try:
            fresh = abs(self._clock() - int(moment)) <= MAX_AGE_S
        except (ValueError, OverflowError):
            return False
        signatures = [
            part.removeprefix("v1,") for part in named.get("webhook-signature", "").split() if part.startswith("v1,")
        ]
        if not fresh or not number or not signatures:
            return False
        message = f"{number}.{moment}.".encode() + body
        return self._signed(signatures, message, self._secret) or self._signed(signatures, message, self._current())

    def _signed(self, signatures: list[str], message: bytes, secret: bytes) -> bool:
        if not secret:
            return False
        wanted = base64.b64encode(hmac.new(secret, message, hashlib.sha256).digest())
        return any(hmac.compare_digest(signature.encode(), wanted) for signature in signatures)

    def _current(self) -> bytes:
        with self._lock:
            if self._clock() - self._read_at > _ASKED_AGAIN_S:
                with self._transport.ask(Request("GET", "/v1/webhooks/default/secret", ends_in_s=5)) as reply:
                    text = reply.members.get("key") if isinstance(reply, Reply) and reply.ok else None
                self._read_at = self._clock()
                if isinstance(text, str):
                    try:
                        self._secret = base64.b64decode(text.removeprefix("whsec_"), validate=True)
                    except (binascii.Error, ValueError):
                        return self._secret
            return self._secret
