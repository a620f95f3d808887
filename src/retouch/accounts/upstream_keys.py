"""Callers' own keys at hosted providers, encrypted at rest.

AES-256-GCM with a key derived from a secret of the server (HKDF-SHA256); the account and the name are authenticated
with it, so a row that is copied to another account does not open. A stored key is never shown again, only its
fingerprint.
"""

from __future__ import annotations

from datetime import UTC, datetime
from secrets import token_bytes

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import delete, select

from retouch.accounts.secrets import server_secret_named
from retouch.accounts.tables import upstream_key
from retouch.database import Database, insert_into
from retouch.errors import InvalidRequest
from retouch.secret import Secret

SECRET_NAME = "upstream-keys"  # noqa: S105  the name of a secret, not one
NONCE_BYTES = 12
MAX_KEY_CHARACTERS = 1000


class UpstreamKeys:
    """The stored keys of one database. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        secret = server_secret_named(database, SECRET_NAME, lambda: token_bytes(32))
        key = HKDF(SHA256(), length=32, salt=None, info=b"retouch upstream keys").derive(secret)
        self._cipher = AESGCM(key)

    def store(self, account_id: str, name: str, secret: str) -> str:
        """Keep a caller's key under a name, in place of an earlier one; returns its fingerprint. InvalidRequest."""
        if not name or len(name) > 100 or not name.isprintable():
            raise InvalidRequest("A stored key needs a name of 1 to 100 printable characters.", field="name")
        if not secret or len(secret) > MAX_KEY_CHARACTERS or not secret.isascii() or not secret.isprintable():
            raise InvalidRequest(f"A stored key has 1 to {MAX_KEY_CHARACTERS} printable ASCII characters.", field="key")
        nonce = token_bytes(NONCE_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, secret.encode(), _bound(account_id, name))
        fingerprint = Secret(secret).fingerprint
        values = {"fingerprint": fingerprint, "sealed": sealed.hex(), "created_at": datetime.now(UTC)}
        with self._database.transaction() as connection:
            row = insert_into(connection, upstream_key).values(account_id=account_id, name=name, **values)
            connection.execute(row.on_conflict_do_update(index_elements=["account_id", "name"], set_=values))
        return fingerprint

    def read(self, account_id: str, name: str) -> str | None:
        """The caller's key, or None when there is none that this server can open."""
        query = select(upstream_key.c.sealed).where(
            upstream_key.c.account_id == account_id, upstream_key.c.name == name
        )
        with self._database.read() as connection:
            sealed = connection.execute(query).scalar_one_or_none()
        if sealed is None:
            return None
        data = bytes.fromhex(sealed)
        try:
            opened = self._cipher.decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], _bound(account_id, name))
        except InvalidTag:
            return None
        return opened.decode()

    def names(self, account_id: str) -> dict[str, str]:
        """The names of a caller's stored keys, with their fingerprints."""
        query = select(upstream_key.c.name, upstream_key.c.fingerprint).where(upstream_key.c.account_id == account_id)
        with self._database.read() as connection:
            return {row.name: row.fingerprint for row in connection.execute(query.order_by(upstream_key.c.name))}

    def forget(self, account_id: str, name: str) -> bool:
        """Delete a stored key; False when there was none."""
        gone = delete(upstream_key).where(upstream_key.c.account_id == account_id, upstream_key.c.name == name)
        with self._database.transaction() as connection:
            return connection.execute(gone).rowcount == 1


def _bound(account_id: str, name: str) -> bytes:
    return f"{account_id}\0{name}".encode()
