"""What each worker's safety checkers have found, for the metrics, and why a worker is not ready."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("worker", sa.Column("checks", sa.Text(), nullable=False, server_default="{}"))
    op.add_column("worker", sa.Column("problem", sa.Text(), nullable=True))
