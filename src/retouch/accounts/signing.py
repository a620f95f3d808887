"""Signs what this server sends of its own accord, so that receivers can tell it from forgeries.

Ed25519: receivers hold only the public key, which the server publishes. When and to whom something is sent is
decided by the sender.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from secrets import token_bytes

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

SECRET_NAME = "webhooks"  # noqa: S105  the name of a secret, not one
SEED_BYTES = 32


class Signer:
    """One key pair. seed: 32 random bytes; the same seed is the same key. Thread-safe."""

    def __init__(self, seed: bytes) -> None:
        assert len(seed) == SEED_BYTES, "an Ed25519 seed has 32 bytes"
        self._private = Ed25519PrivateKey.from_private_bytes(seed)

    @classmethod
    def of_this_process(cls) -> Signer:
        """A key that ends with this process."""
        return cls(token_bytes(SEED_BYTES))

    def sign(self, message: bytes) -> bytes:
        """The signature, 64 bytes."""
        return self._private.sign(message)

    @property
    def key_set(self) -> Mapping[str, object]:
        """The public key as a JWK set (RFC 7517, RFC 8037)."""
        public = self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        key = {
            "kty": "OKP",
            "crv": "Ed25519",
            "x": base64.urlsafe_b64encode(public).rstrip(b"=").decode(),
            "kid": hashlib.sha256(public).hexdigest()[:16],
            "use": "sig",
            "alg": "EdDSA",
        }
        return {"keys": [key]}
