"""Who is calling: the credential of a request, and the account it stands for.

While no key exists, a server that only this machine can reach works without authentication; so does one whose
operator asked for it. It holds no secrets and issues no keys.
"""

from __future__ import annotations

import time

from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from retouch.accounts.keys import ANONYMOUS, Account, Keys
from retouch.errors import InvalidKey, InvalidSetting

KEYS_CHECK_S = 1.0
"""How long the answer to "is there any key?" is believed."""


def credential_of(connection: HTTPConnection) -> str | None:
    """The bare key of the `Authorization` header: after `Key` or `Bearer`, or alone; None without the header.

    A key pasted with the `sk-` that resellers put before theirs is read without it.
    """
    header = connection.headers.get("authorization", "").strip()
    scheme, _, secret = header.partition(" ")
    if scheme.lower() not in ("key", "bearer"):
        secret = header
    return secret.strip().removeprefix("sk-") or None


class Authenticator:
    """Turns credentials into accounts, by one of three rules.

    no_auth: every caller is accepted; a good key still names its account. loopback: every caller is accepted while
    no key exists. Else a good key is needed.
    """

    def __init__(self, keys: Keys, *, loopback: bool, no_auth: bool) -> None:
        self._keys = keys
        self._loopback = loopback
        self._no_auth = no_auth
        self._keyless = False
        self._checked_at = -1e9

    def refuse_unauthenticated(self, host: str) -> None:
        """Raise InvalidSetting when the server would listen on `host` without any key by accident."""
        if not self._loopback and self.needs_key() and not self._keys.any_exist():
            raise InvalidSetting(
                f"Others can reach {host} and there is no key yet. Make one with 'retouch keys create NAME', "
                "or pass --no-auth to let everybody in."
            )

    def needs_key(self) -> bool:
        """Whether a caller has to show a key now."""
        return not self._no_auth and not (self._loopback and not self._keys.any_exist())

    async def unauthenticated(self) -> bool:
        """Whether every caller is accepted only because no key exists; raises DatabaseUnavailable."""
        if self._no_auth or not self._loopback:
            return False
        return self._keyless if self._checked_lately() else await run_in_threadpool(self._no_key_exists)

    async def authenticate(self, secret: str | None) -> Account:
        """The account of a credential; raises InvalidKey, and DatabaseUnavailable."""
        if self._keyless and self._checked_lately():
            return ANONYMOUS
        # A thread costs more than everything else that a polled status does.
        if secret and (known := self._keys.remembered(secret)) is not None:
            return known
        return await run_in_threadpool(self._account, secret)

    async def may_operate(self, secret: str | None) -> bool:
        """Whether a caller may read what every key has used: with an operator's key, or while there is no key at all.

        Raises DatabaseUnavailable.
        """
        if await self.unauthenticated():
            return True
        try:
            return secret is not None and (await self.authenticate(secret)).operator
        except InvalidKey:
            return False

    def _account(self, secret: str | None) -> Account:
        if self._no_key_exists():
            return ANONYMOUS
        if secret:
            try:
                return self._keys.verify(secret)
            except InvalidKey:
                if not self._no_auth:
                    raise
        if self._no_auth:
            return ANONYMOUS
        raise InvalidKey("This server needs an API key; none was given.")

    def _no_key_exists(self) -> bool:
        """Whether no key exists and this is no risk; asked again after `KEYS_CHECK_S` while it is so."""
        if not (self._loopback or self._no_auth):
            return False
        if not self._checked_lately():
            self._keyless = not self._keys.any_exist()
            self._checked_at = time.monotonic()
        return self._keyless

    def _checked_lately(self) -> bool:
        return time.monotonic() - self._checked_at < KEYS_CHECK_S
