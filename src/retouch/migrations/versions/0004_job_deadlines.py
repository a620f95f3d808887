"""A job's own deadlines, its owner's retries, and the bucket its image is to be put into."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from retouch.database import UtcTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("job", sa.Column("run_timeout_s", sa.Float(), nullable=True))
    for name in ("run_by", "end_by", "retried_at"):
        op.add_column("job", sa.Column(name, UtcTime(), nullable=True))
    op.add_column("job", sa.Column("retries", sa.Integer(), nullable=False, server_default="0"))
    op.create_table(
        "caller_bucket",
        sa.Column("job_id", sa.Text(), sa.ForeignKey("job.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("bucket", sa.Text(), nullable=False),
    )
