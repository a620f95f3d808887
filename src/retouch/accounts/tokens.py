"""Short tokens: an account's right to one kind of thing for a short time, as text that needs no look-up.

A token is a JWT signed with a secret of this server. Its holder has the right, so it goes where a key
must not: into a browser's URL, or to the program that uploads a file. Nothing is stored; a key that is
revoked meanwhile leaves its tokens alive to their end, which is why they are short.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from secrets import token_bytes
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from retouch.accounts.keys import Account
from retouch.errors import InvalidKey

SECRET_NAME = "tokens"  # noqa: S105  the name of a secret, not one
SECRET_BYTES = 32

_ALGORITHM = "HS256"
_MAX_CHARACTERS = 4096


@dataclass(frozen=True, slots=True)
class Token:
    """What a good token says. claims: whatever its issuer added, as JSON values."""

    account: Account
    expires_at: float
    claims: Mapping[str, Any]


class Tokens:
    """Issues and reads the tokens of one server. Thread-safe. clock: seconds since 1970."""

    def __init__(self, secret: bytes, *, clock: Callable[[], float] = time.time) -> None:
        assert len(secret) >= SECRET_BYTES, "a short secret can be guessed"
        self._key = OctKey.import_key(secret)
        self._clock = clock

    @classmethod
    def of_this_process(cls) -> Tokens:
        """Tokens that no other process can read and that end with this one."""
        return cls(token_bytes(SECRET_BYTES))

    def issue(self, account: Account, purpose: str, ttl_s: float, **claims: object) -> str:
        """A token good for `purpose` and nothing else, until `ttl_s` from now."""
        facts = {
            "sub": account.id,
            "name": account.name,
            "key": account.key_id,
            "weight": account.weight,
            "aud": purpose,
            "exp": int(self._clock() + ttl_s) + 1,
            **{f"x_{name}": value for name, value in claims.items()},
        }
        return jwt.encode({"alg": _ALGORITHM}, facts, self._key, algorithms=[_ALGORITHM])

    def read(self, text: str, purpose: str) -> Token:
        """Raises InvalidKey for anything that is not a living token for this purpose."""
        if len(text) > _MAX_CHARACTERS:
            raise InvalidKey("The token is not one of this server's.")
        try:
            facts = jwt.decode(text, self._key, algorithms=[_ALGORITHM]).claims
        except (JoseError, ValueError):
            raise InvalidKey("The token is not one of this server's.") from None
        if facts.get("aud") != purpose:
            raise InvalidKey("The token is for something else.")
        if facts["exp"] <= self._clock():
            raise InvalidKey("The token has expired.")
        account = Account(facts["sub"], facts["name"], facts["key"], facts["weight"])
        return Token(account, facts["exp"], {n[2:]: value for n, value in facts.items() if n.startswith("x_")})
