"""What edits of a queue take on each of its devices, as last measured: shared by all servers and workers.

What the figures mean is `engine/cost.py`'s matter; here they are small JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from retouch.database import insert_into
from retouch.jobs.tables import device_cost


def keep(connection: Connection, queue: str, device: str, cost: Mapping[str, Any], now: datetime) -> None:
    """Write what was measured on a device, instead of what was known of it."""
    facts = {"cost": dict(cost), "measured_at": now}
    row = insert_into(connection, device_cost).values(queue=queue, device=device, **facts)
    connection.execute(row.on_conflict_do_update(index_elements=["queue", "device"], set_=facts))


def of_queue(connection: Connection, queue: str) -> Mapping[str, Mapping[str, Any]]:
    """What is known, by device."""
    query = select(device_cost.c.device, device_cost.c.cost).where(device_cost.c.queue == queue)
    return {row.device: row.cost for row in connection.execute(query)}
