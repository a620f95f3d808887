"""Sums for the metrics: what each key has used, how long jobs waited and ran; and the right to read the first."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("api_key", sa.Column("operator", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("job_tally", sa.Column("wait_ms", NUMBER, nullable=False, server_default="0"))
    op.add_column("job_tally", sa.Column("run_ms", NUMBER, nullable=False, server_default="0"))
    tally = op.create_table(
        "usage_tally",
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("jobs", NUMBER, nullable=False),
        sa.Column("images", NUMBER, nullable=False),
        sa.Column("device_ms", NUMBER, nullable=False),
        sa.Column("price_microusd", NUMBER, nullable=False),
        sa.PrimaryKeyConstraint("account_id", name="pk_usage_tally"),
    )
    names = ("account_id", "images", "device_ms", "price_microusd")
    entry = sa.table("usage_entry", *(sa.column(name) for name in names))
    sums = [sa.func.sum(entry.c[name]) for name in names[1:]]
    used = sa.select(entry.c.account_id, sa.func.count(), *sums).group_by(entry.c.account_id)
    op.execute(tally.insert().from_select(["account_id", "jobs", *names[1:]], used))
