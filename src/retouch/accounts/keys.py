"""API keys: make, verify, list, revoke. A key belongs to an account; jobs and usage belong to the account.

Only the SHA-256 of a secret is stored. A slow password hash would protect nothing here: a secret is 256
random bits, so it cannot be guessed from its hash however fast the hash is, and it would cost every request a
hundred milliseconds. Which address needs a key at all is decided by the server.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import insert, select, update

from retouch.accounts.tables import account, api_key
from retouch.database import Database, insert_into
from retouch.errors import InvalidKey, InvalidRequest, NotFound

SECRET_PREFIX = "rt_"  # noqa: S105  what leak scanners look for

CACHE_S = 1.0
"""How long a verified key is believed without asking the database: the longest a revoked key still works."""

_CACHE_SIZE = 1024


@dataclass(frozen=True, slots=True)
class Account:
    """Who asks. weight: share of a busy queue beside accounts of weight 1.

    operator: the key may read what every key has used; it may do nothing else that others may not.
    """

    id: str
    name: str
    key_id: str
    weight: int = 1
    operator: bool = False


ANONYMOUS = Account("anonymous", "anonymous", "")
"""Every caller, while no key exists and the server listens on the loopback address only."""


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What may be printed of a key; never its secret."""

    id: str
    name: str
    created_at: datetime
    revoked_at: datetime | None
    operator: bool


class Keys:
    """The keys of one database. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._cache: dict[str, tuple[float, Account]] = {}
        self._lock = threading.Lock()

    def create(self, name: str, *, weight: int = 1, operator: bool = False) -> str:
        """Make a key and return its secret, which cannot be read again.

        name: of the account; an account that exists gets one more key, so that keys can be changed without
        a gap. weight: used when the account is new. operator: of this key only, see `Account`. Raises InvalidRequest
        for an unusable name.
        """
        name = name.strip()
        if not name or len(name) > 100 or not name.isprintable():
            raise InvalidRequest("A key needs a name of 1 to 100 printable characters.", field="name")
        if weight < 1:
            raise InvalidRequest(f"The weight must be at least 1, not {weight}.", field="weight")
        secret = SECRET_PREFIX + secrets.token_urlsafe(32)
        now = datetime.now(UTC)
        with self._database.transaction() as connection:
            new = {"id": f"acc_{secrets.token_hex(8)}", "name": name, "weight": weight, "created_at": now}
            connection.execute(insert_into(connection, account).values(**new).on_conflict_do_nothing())
            account_id = connection.execute(select(account.c.id).where(account.c.name == name)).scalar_one()
            row = {"id": f"key_{secrets.token_hex(6)}", "account_id": account_id, "secret_hash": _hash(secret)}
            connection.execute(insert(api_key).values(**row, operator=operator, created_at=now))
        return secret

    def verify(self, secret: str) -> Account:
        """The account of a live key; raises InvalidKey."""
        known = self.remembered(secret)
        if known is not None:
            return known
        digest = _hash(secret)
        query = (
            select(
                api_key.c.secret_hash, account.c.id, account.c.name, api_key.c.id, account.c.weight, api_key.c.operator
            )
            .join(account, account.c.id == api_key.c.account_id)
            .where(api_key.c.secret_hash == digest, api_key.c.revoked_at.is_(None))
        )
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        # An index is not searched in constant time, but what it compares is a hash no caller can steer; the
        # last comparison is constant-time all the same.
        if row is None or not hmac.compare_digest(row[0], digest):
            raise InvalidKey("This API key is not valid.")
        found = Account(id=row[1], name=row[2], key_id=row[3], weight=row[4], operator=row[5])
        with self._lock:
            if len(self._cache) >= _CACHE_SIZE:
                self._cache.clear()
            self._cache[digest] = (time.monotonic() + CACHE_S, found)
        return found

    def remembered(self, secret: str) -> Account | None:
        """The account of a key that was verified a moment ago, without asking the database; never waits for it."""
        with self._lock:
            until, known = self._cache.get(_hash(secret), (0.0, None))
        return known if time.monotonic() < until else None

    def list(self) -> tuple[KeyInfo, ...]:
        """All keys ever made, oldest first."""
        query = (
            select(api_key.c.id, account.c.name, api_key.c.created_at, api_key.c.revoked_at, api_key.c.operator)
            .join(account, account.c.id == api_key.c.account_id)
            .order_by(api_key.c.created_at, api_key.c.id)
        )
        with self._database.read() as connection:
            return tuple(KeyInfo(*row) for row in connection.execute(query))

    def revoke(self, name_or_id: str) -> int:
        """End one key by its id, or all of an account by its name; returns how many. NotFound when none is live.

        Other processes may believe a revoked key for CACHE_S more.
        """
        owners = select(account.c.id).where(account.c.name == name_or_id)
        named = (api_key.c.id == name_or_id) | api_key.c.account_id.in_(owners)
        with self._database.transaction() as connection:
            ended = update(api_key).where(named, api_key.c.revoked_at.is_(None)).values(revoked_at=datetime.now(UTC))
            count = connection.execute(ended).rowcount
        with self._lock:
            self._cache.clear()
        if not count:
            raise NotFound(f"There is no live key '{name_or_id[:100]}'.")
        return count

    def name_of(self, account_id: str) -> str:
        """The account's name; its id where it has no row, as that of callers without a key."""
        with self._database.read() as connection:
            name = connection.execute(select(account.c.name).where(account.c.id == account_id)).scalar_one_or_none()
        return account_id if name is None else str(name)

    def account_named(self, name: str) -> str:
        """The id of an account; NotFound when there is none of that name."""
        with self._database.read() as connection:
            account_id = connection.execute(select(account.c.id).where(account.c.name == name)).scalar_one_or_none()
        if account_id is None:
            raise NotFound(f"There is no account '{name[:100]}'; `retouch keys create` makes one.")
        return str(account_id)

    def any_exist(self) -> bool:
        """Whether a live key exists, so that callers must show one."""
        with self._database.read() as connection:
            return (
                connection.execute(select(api_key.c.id).where(api_key.c.revoked_at.is_(None)).limit(1)).first()
                is not None
            )


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
