"""`retouch webhooks`: what could not be delivered, and another try. When a webhook is sent is in `jobs/outbox.py`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

from retouch.cli.database import open_database
from retouch.errors import UnknownJob
from retouch.jobs import outbox
from retouch.settings import StoreSettings


def list_given_up(store: StoreSettings) -> None:
    with open_database(store) as database, database.read() as connection:
        for each in outbox.given_up(connection):
            sys.stdout.write(f"{each.job_id}  {each.created_at:%Y-%m-%d %H:%M}  {each.url}  {each.last_error}\n")


def replay(store: StoreSettings, request_id: str) -> None:
    with open_database(store) as database, database.transaction() as connection:
        if not outbox.try_again(connection, request_id, datetime.now(UTC)):
            raise UnknownJob(f"The request '{request_id[:60]}' has not ended or has no webhook.")
    sys.stdout.write(f"The webhook of '{request_id}' will be sent again by the server.\n")
