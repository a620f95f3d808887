"""API keys: what is stored, who is let in, and when a revoked key stops working."""

from __future__ import annotations

import hashlib

import pytest
from sqlalchemy import select

from retouch.accounts import keys as keys_module
from retouch.accounts.keys import ANONYMOUS, Keys
from retouch.accounts.tables import account, api_key
from retouch.database import Database
from retouch.errors import DatabaseUnavailable, InvalidKey, InvalidRequest, NotFound


@pytest.fixture
def keys(database: Database) -> Keys:
    return Keys(database)


def test_a_new_key_opens_its_account(keys: Keys) -> None:
    assert not keys.any_exist()
    secret = keys.create("studio")
    found = keys.verify(secret)
    assert (found.name, found.weight) == ("studio", 1)
    assert keys.any_exist()
    assert found.id != ANONYMOUS.id


def test_a_secret_is_long_and_only_its_hash_is_stored(keys: Keys, database: Database) -> None:
    secret = keys.create("studio")
    assert secret.startswith("rt_")
    assert len(secret) >= 3 + 43  # 32 random bytes, six bits a character
    with database.read() as connection:
        rows = [*connection.execute(select(api_key)), *connection.execute(select(account))]
    stored = [str(value) for row in rows for value in row]
    assert hashlib.sha256(secret.encode()).hexdigest() in stored
    assert not any(secret in value or secret[3:] in value for value in stored)


def test_two_secrets_of_one_name_belong_to_one_account(keys: Keys) -> None:
    first, second = keys.verify(keys.create("studio", weight=3)), keys.verify(keys.create("studio"))
    assert first.id == second.id
    assert first.key_id != second.key_id
    assert second.weight == 3


def test_one_key_of_an_account_may_be_its_operators(keys: Keys) -> None:
    plain, right = keys.create("studio"), keys.create("studio", operator=True)
    assert (keys.verify(plain).operator, keys.verify(right).operator) == (False, True)
    assert sorted(key.operator for key in keys.list()) == [False, True]


@pytest.mark.parametrize("secret", ["", "rt_", "rt_wrong", "x" * 100_000, "ü\x00", "\ud800"])
def test_what_is_not_a_key_is_refused(keys: Keys, secret: str) -> None:
    keys.create("studio")
    with pytest.raises(InvalidKey):
        keys.verify(secret)


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 101, "nul\x00"])
def test_a_name_that_cannot_be_shown_is_refused(keys: Keys, name: str) -> None:
    with pytest.raises(InvalidRequest):
        keys.create(name)
    with pytest.raises(InvalidRequest):
        keys.create("fine", weight=0)
    assert keys.list() == ()


def test_a_revoked_key_stops_working_here_at_once(keys: Keys) -> None:
    secret, other = keys.create("studio"), keys.create("lab")
    keys.verify(secret)
    assert keys.revoke("studio") == 1
    with pytest.raises(InvalidKey):
        keys.verify(secret)
    keys.verify(other)


def test_a_revoked_key_stops_working_elsewhere_within_a_second(
    keys: Keys, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(keys_module.time, "monotonic", lambda: now[0])
    elsewhere = Keys(database)
    secret = keys.create("studio")
    elsewhere.verify(secret)
    keys.revoke("studio")
    now[0] += 1.01
    with pytest.raises(InvalidKey):
        elsewhere.verify(secret)


def test_a_key_that_was_just_verified_costs_no_query(keys: Keys, database: Database) -> None:
    secret = keys.create("studio")
    known = keys.verify(secret)
    database.close()
    keys._database = Database("postgresql://nobody@127.0.0.1:9/none")
    assert keys.verify(secret) == known
    with pytest.raises(DatabaseUnavailable):
        keys.verify("rt_another")


def test_one_key_of_an_account_can_be_revoked_by_its_id(keys: Keys) -> None:
    old, new = keys.create("studio"), keys.create("studio")
    assert keys.revoke(keys.verify(old).key_id) == 1
    keys.verify(new)
    with pytest.raises(InvalidKey):
        keys.verify(old)
    assert keys.any_exist()
    assert keys.revoke("studio") == 1
    assert not keys.any_exist()


def test_revoking_what_does_not_live_is_an_error(keys: Keys) -> None:
    keys.create("studio")
    keys.revoke("studio")
    for name in ("studio", "nobody"):
        with pytest.raises(NotFound):
            keys.revoke(name)


def test_the_list_shows_everything_but_the_secret(keys: Keys) -> None:
    secret = keys.create("studio")
    keys.create("lab")
    keys.revoke("lab")
    studio, lab = keys.list()
    assert (studio.name, studio.revoked_at) == ("studio", None)
    assert lab.revoked_at is not None
    assert studio.id == keys.verify(secret).key_id
    assert secret not in repr(keys.list())


def test_the_cache_does_not_grow_without_end(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "_CACHE_SIZE", 2)
    for secret in [keys.create(f"studio {number}") for number in range(5)]:
        keys.verify(secret)
    assert len(keys._cache) <= 2
