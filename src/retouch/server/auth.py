"""Who is calling: a bare credential becomes an account. Which header it came in is the face's matter.

While no key exists, a server that only this machine can reach lets everybody in; so does one whose operator
asked for it. It holds no secrets and issues no keys.
"""

from __future__ import annotations

import time

from starlette.concurrency import run_in_threadpool

from retouch.accounts.keys import ANONYMOUS, Account, Keys
from retouch.errors import InvalidKey, InvalidSetting

DOOR_CHECK_S = 1.0
"""How long the answer to "is there any key?" is believed."""


class Doorkeeper:
    """Turns credentials into accounts, by one of three rules.

    no_auth: everybody is let in; a good key still names its account. loopback: everybody is let in while
    no key exists. Else a good key is needed.
    """

    def __init__(self, keys: Keys, *, loopback: bool, no_auth: bool) -> None:
        self._keys = keys
        self._loopback = loopback
        self._no_auth = no_auth
        self._open = False
        self._checked_at = -1e9

    def refuse_an_open_door(self, host: str) -> None:
        """Raise InvalidSetting when the server would listen to the world and let everybody in by accident."""
        if not self._loopback and self.needs_key() and not self._keys.any_exist():
            raise InvalidSetting(
                f"Others can reach {host} and there is no key yet. Make one with 'retouch keys create NAME', "
                "or pass --no-auth to let everybody in."
            )

    def needs_key(self) -> bool:
        """Whether a caller has to show a key now."""
        return not self._no_auth and not (self._loopback and not self._keys.any_exist())

    async def open_by_default(self) -> bool:
        """Whether everybody is let in only because no key exists; raises DatabaseUnavailable."""
        if self._no_auth or not self._loopback:
            return False
        return self._open if self._known_now() else await run_in_threadpool(self._open_now)

    async def authenticate(self, secret: str | None) -> Account:
        """The account of a credential; raises InvalidKey, and DatabaseUnavailable."""
        if self._open and self._known_now():
            return ANONYMOUS
        # A thread costs more than everything else that a polled status does.
        if secret and (known := self._keys.remembered(secret)) is not None:
            return known
        return await run_in_threadpool(self._account, secret)

    def _account(self, secret: str | None) -> Account:
        if self._open_now():
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

    def _open_now(self) -> bool:
        """Whether no key exists and this is no risk; asked again after `DOOR_CHECK_S` while it is so."""
        if not (self._loopback or self._no_auth):
            return False
        if not self._known_now():
            self._open = not self._keys.any_exist()
            self._checked_at = time.monotonic()
        return self._open

    def _known_now(self) -> bool:
        return time.monotonic() - self._checked_at < DOOR_CHECK_S
