"""Short tokens and the secret behind them."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from retouch.accounts.keys import Account
from retouch.accounts.secrets import server_secret_named
from retouch.accounts.tokens import Tokens
from retouch.database import Database
from retouch.errors import InvalidKey
from retouch.migrations import migrate

ANNE = Account("anne", "Anne", "key_anne", 3)


def test_a_token_says_whose_it_is_and_what_was_added():
    tokens = Tokens.of_this_process()
    token = tokens.read(tokens.issue(ANNE, "upload", 60, key="uploads/x", size=3), "upload")
    assert token.account == ANNE
    assert token.claims == {"key": "uploads/x", "size": 3}


def test_a_token_is_good_for_one_purpose():
    tokens = Tokens.of_this_process()
    with pytest.raises(InvalidKey, match="something else"):
        tokens.read(tokens.issue(ANNE, "upload", 60), "realtime")


def test_a_token_ends():
    now = [1000.0]
    tokens = Tokens(secrets.token_bytes(32), clock=lambda: now[0])
    text = tokens.issue(ANNE, "upload", 60)
    now[0] += 59
    tokens.read(text, "upload")
    now[0] += 3
    with pytest.raises(InvalidKey, match="expired"):
        tokens.read(text, "upload")


def test_only_the_holder_of_the_secret_can_make_one():
    text = Tokens.of_this_process().issue(ANNE, "upload", 60)
    head, body, signature = text.split(".")
    for bad in ("", "é", "a.b.c", f"{head}.{body}.", f"{head}.{body}.{signature[::-1]}", text, "x" * 10_000):
        with pytest.raises(InvalidKey):
            Tokens.of_this_process().read(bad, "upload")


def test_all_processes_of_a_server_share_a_secret(tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'x.db'}"
    first, second = Database(url), Database(url)
    migrate(first)
    made = {server_secret_named(each, "tokens", lambda: secrets.token_bytes(32)) for each in (first, second, first)}
    assert len(made) == 1
    assert server_secret_named(first, "webhooks", lambda: b"other") == b"other"
    first.close()
    second.close()
