"""The order of a line by predicted device time: costs, head starts, and what devices were measured at."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from retouch.database import UtcTime

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "device_cost",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("cost", sa.Text(), nullable=False),
        sa.Column("measured_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("queue", "device", name="pk_device_cost"),
    )
    op.add_column("job", sa.Column("cost", NUMBER, nullable=False, server_default="0"))
    op.add_column("job", sa.Column("quick", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.drop_index("ix_job_waiting", "job")
    op.create_index(
        "ix_job_waiting",
        "job",
        ["queue", "priority", "fair_tag", "sequence", "state", "cost"],
        unique=False,
        sqlite_where=sa.text("state = 'queued'"),
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.add_column("queue_block", sa.Column("cost", NUMBER, nullable=False, server_default="0"))
    op.add_column("fair_clock", sa.Column("mean_cost", NUMBER, nullable=False, server_default="0"))
    op.add_column("fair_clock", sa.Column("started", NUMBER, nullable=False, server_default="0"))
    # A head start leads to tags below 0, so a line begins there.
    block = sa.table("queue_block", sa.column("lower_priority"), sa.column("lower_tag"))
    op.execute(block.update().where(block.c.lower_priority == -(2**31)).values(lower_tag=-(2**62)))
    _split_shares()


def _split_shares() -> None:
    """Quick jobs of an account are a flow of their own; what waits already is in the other one."""
    columns = ("queue", "priority", "account_id", "next_tag", "waiting")
    old = sa.table("fair_share", *(sa.column(name) for name in columns))
    rows = [{**row, "quick": False} for row in op.get_bind().execute(sa.select(old)).mappings()]
    op.drop_index("ix_fair_share_account", "fair_share")
    op.drop_table("fair_share")
    new = op.create_table(
        "fair_share",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("quick", sa.Boolean(), nullable=False),
        sa.Column("next_tag", NUMBER, nullable=False),
        sa.Column("waiting", sa.Integer(), nullable=False),
        sa.CheckConstraint("waiting >= 0", name="ck_fair_share_waiting"),
        sa.PrimaryKeyConstraint("queue", "priority", "account_id", "quick", name="pk_fair_share"),
    )
    op.create_index("ix_fair_share_account", "fair_share", ["account_id"], unique=False)
    if rows:
        op.bulk_insert(new, rows)
