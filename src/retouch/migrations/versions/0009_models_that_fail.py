"""A worker may be `failed`: its model cannot run beside others that do."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from retouch.database import UtcTime

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """The table is made anew, since SQLite cannot change a check; its rows are written every few seconds anyway."""
    op.drop_table("worker")
    op.create_table(
        "worker",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("queues", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("seen_at", UtcTime(), nullable=False),
        sa.Column("seconds", sa.Text(), nullable=False, server_default="{}"),
        sa.Column("checks", sa.Text(), nullable=False, server_default="{}"),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.CheckConstraint("state IN ('loading', 'ready', 'failed')", name="ck_worker_state"),
        sa.PrimaryKeyConstraint("name", name="pk_worker"),
    )
