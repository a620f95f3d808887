"""Who is let in: by key, by address, by the operator's word."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from retouch.accounts.keys import ANONYMOUS, Keys
from retouch.database import Database
from retouch.errors import InvalidKey, InvalidSetting
from retouch.migrations import migrate
from retouch.protocols import http
from retouch.protocols.http import Authenticator


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Keys]:
    database = Database(f"sqlite:///{tmp_path / 'keys.db'}")
    migrate(database)
    yield Keys(database)
    database.close()


async def test_on_loopback_every_caller_is_let_in_while_no_key_exists(keys: Keys) -> None:
    door = Authenticator(keys, loopback=True, no_auth=False)
    assert await door.authenticate(None) == ANONYMOUS
    assert await door.authenticate("anything") == ANONYMOUS


async def test_the_first_key_closes_the_door(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "KEYS_CHECK_S", 0.0)
    door = Authenticator(keys, loopback=True, no_auth=False)
    assert await door.authenticate(None) == ANONYMOUS
    secret = keys.create("anne")
    assert (await door.authenticate(secret)).name == "anne"
    for wrong in (None, "", "anything"):
        with pytest.raises(InvalidKey):
            await door.authenticate(wrong)


async def test_on_another_address_a_key_is_needed_even_while_none_exists(keys: Keys) -> None:
    door = Authenticator(keys, loopback=False, no_auth=False)
    with pytest.raises(InvalidKey):
        await door.authenticate(None)


async def test_without_auth_every_caller_is_let_in_and_a_good_key_still_counts(keys: Keys) -> None:
    secret = keys.create("anne")
    door = Authenticator(keys, loopback=False, no_auth=True)
    assert await door.authenticate("wrong") == ANONYMOUS
    assert await door.authenticate(None) == ANONYMOUS
    assert (await door.authenticate(secret)).name == "anne"


def test_an_open_door_to_the_world_is_refused(keys: Keys) -> None:
    door = Authenticator(keys, loopback=False, no_auth=False)
    with pytest.raises(InvalidSetting, match="--no-auth"):
        door.refuse_unauthenticated("0.0.0.0")
    Authenticator(keys, loopback=True, no_auth=False).refuse_unauthenticated("127.0.0.1")
    Authenticator(keys, loopback=False, no_auth=True).refuse_unauthenticated("0.0.0.0")
    keys.create("anne")
    door.refuse_unauthenticated("0.0.0.0")
