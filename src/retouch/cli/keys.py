"""`retouch keys`: create, list, revoke; and callers' own keys to hosted providers. The rules are in `accounts/`."""

from __future__ import annotations

import sys

from retouch.accounts.keys import Keys
from retouch.accounts.upstream_keys import UpstreamKeys
from retouch.cli.database import open_database
from retouch.settings import StoreSettings


def create(store: StoreSettings, name: str, *, operator: bool = False) -> None:
    with open_database(store) as database:
        secret = Keys(database).create(name, operator=operator)
    sys.stdout.write(f"This is the key of '{name}'. It is shown this once; keep it.\n{secret}\n")


def list_all(store: StoreSettings) -> None:
    with open_database(store) as database:
        for key in Keys(database).list():
            ended = "" if key.revoked_at is None else f"  revoked {key.revoked_at:%Y-%m-%d %H:%M}"
            right = "  operator" if key.operator else ""
            sys.stdout.write(f"{key.id}  {key.created_at:%Y-%m-%d %H:%M}  {key.name}{right}{ended}\n")


def revoke(store: StoreSettings, name: str) -> None:
    with open_database(store) as database:
        Keys(database).revoke(name)
    sys.stdout.write(f"The key '{name}' is revoked.\n")


def store(settings: StoreSettings, name: str, provider: str) -> None:
    """The secret is read from standard input: as an argument every user of the machine could see it."""
    if sys.stdin.isatty():
        sys.stderr.write(f"Paste the key that '{name}' has at the provider, then Enter and Ctrl-D:\n")
    secret = sys.stdin.read().strip()
    with open_database(settings) as database:
        fingerprint = UpstreamKeys(database).store(Keys(database).account_named(name), provider, secret)
    sys.stdout.write(f"'{name}' is led to targets of caller:{provider} by the key •••• {fingerprint}.\n")


def forget(settings: StoreSettings, name: str, provider: str) -> None:
    with open_database(settings) as database:
        known = UpstreamKeys(database).forget(Keys(database).account_named(name), provider)
    sys.stdout.write(f"'{name}' has {'no longer a' if known else 'no'} key under caller:{provider}.\n")
