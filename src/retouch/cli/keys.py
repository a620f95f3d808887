"""`retouch keys`: create, list, revoke. The rules of keys are in `accounts/keys.py`."""

from __future__ import annotations

import sys

from retouch.accounts.keys import Keys
from retouch.cli.parts import open_database
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
