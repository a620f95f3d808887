"""Secrets of the server itself: made at first use, kept in the database, the same for all its processes.

It does not sign anything; `tokens.py` and the sender of webhooks do.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy import select

from retouch.accounts.tables import server_secret
from retouch.database import Database, insert_into


def server_secret_named(database: Database, name: str, make: Callable[[], bytes]) -> bytes:
    """The secret of that name; when there is none yet, what `make` gives is kept. Raises DatabaseUnavailable.

    When several processes start at once, one of them makes it and all get the same.
    """
    wanted = select(server_secret.c.value).where(server_secret.c.name == name)
    with database.read() as connection:
        known = connection.execute(wanted).scalar_one_or_none()
    if known is None:
        row = {"name": name, "value": make().hex(), "created_at": datetime.now(UTC)}
        with database.transaction() as connection:
            connection.execute(insert_into(connection, server_secret).values(**row).on_conflict_do_nothing())
            known = connection.execute(wanted).scalar_one()
    return bytes.fromhex(known)
