"""Whether a webhook is fal's: ED25519 over its id, account, time and body, with keys that fal publishes."""

from __future__ import annotations

import base64
import binascii
import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from retouch.upstreams.transport import Reply, Request, Transport

MAX_AGE_S: Final = 300.0
"""Distance of clocks beyond which fal's own page tells receivers to refuse."""

_KEPT_S: Final = 24 * 3600.0
_ASKED_AGAIN_S: Final = 60.0
"""Keys may have been changed, but a stream of forgeries must not become a stream of requests."""


class WebhookKeys:
    """Verifies signatures; thread-safe. rest: where `/.well-known/jwks.json` is; it is asked without our key."""

    def __init__(self, rest: Transport, *, clock: Callable[[], float] = time.time) -> None:
        self._rest = rest
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: tuple[Ed25519PublicKey, ...] = ()
        self._read_at = float("-inf")

    def verified(self, headers: Mapping[str, str], body: bytes) -> str | None:
        """The request id that was signed; None when the signature is bad, old, or cannot be judged now."""
        named = {name.lower(): value for name, value in headers.items()}
        parts = [named.get(f"x-fal-webhook-{part}", "") for part in ("request-id", "user-id", "timestamp")]
        try:
            signature = bytes.fromhex(named.get("x-fal-webhook-signature", ""))
            age_s = abs(self._clock() - int(parts[2]))
        except (ValueError, OverflowError):
            return None
        if not all(parts) or age_s > MAX_AGE_S:
            return None
        message = "\n".join((*parts, hashlib.sha256(body).hexdigest())).encode()
        if self._signed(signature, message, fresher_than_s=_KEPT_S):
            return parts[0]
        return parts[0] if self._signed(signature, message, fresher_than_s=_ASKED_AGAIN_S) else None

    def _signed(self, signature: bytes, message: bytes, *, fresher_than_s: float) -> bool:
        for key in self._current(fresher_than_s):
            try:
                key.verify(signature, message)
            except InvalidSignature:
                continue
            return True
        return False

    def _current(self, fresher_than_s: float) -> tuple[Ed25519PublicKey, ...]:
        with self._lock:
            if self._clock() - self._read_at > fresher_than_s:
                with self._rest.ask(Request("GET", "/.well-known/jwks.json", authorized=False, ends_in_s=5)) as reply:
                    if isinstance(reply, Reply) and reply.ok:
                        self._keys = _keys_of(reply)
                        self._read_at = self._clock()
            return self._keys


def _keys_of(reply: Reply) -> tuple[Ed25519PublicKey, ...]:
    keys = []
    entries = reply.members.get("keys")
    for entry in entries if isinstance(entries, list) else ():
        text = entry.get("x") if isinstance(entry, dict) and entry.get("crv") == "Ed25519" else None
        if isinstance(text, str):
            try:
                keys.append(Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))))
            except (binascii.Error, ValueError):
                continue
    return tuple(keys)
