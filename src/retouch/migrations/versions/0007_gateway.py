"""Attempts at hosted providers, what they cost, the breakers of their targets, and callers' own keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from retouch.database import UtcTime

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
OPEN = sa.text("state IN ('sending', 'accepted')")


def upgrade() -> None:
    _attempts()
    op.create_table(
        "attempt_tally",
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", NUMBER, nullable=False),
        sa.Column("charge_microusd", NUMBER, nullable=False),
        sa.PrimaryKeyConstraint("target", "state", name="pk_attempt_tally"),
    )
    op.create_table(
        "breaker",
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("pause_s", sa.Float(), nullable=False),
        sa.Column("opened_at", UtcTime(), nullable=False),
        sa.Column("open_until", UtcTime(), nullable=False),
        sa.Column("probe", sa.Text(), nullable=True),
        sa.Column("probe_until", UtcTime(), nullable=True),
        sa.CheckConstraint("(probe IS NULL) = (probe_until IS NULL)", name="ck_breaker_probe"),
        sa.PrimaryKeyConstraint("target", "key", name="pk_breaker"),
    )
    op.create_table(
        "upstream_key",
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("sealed", sa.Text(), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "name", name="pk_upstream_key"),
    )


def _attempts() -> None:
    states = "'planned', 'sending', 'accepted', 'done', 'refused', 'unknown', 'abandoned'"
    op.create_table(
        "attempt",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("image", sa.Integer(), nullable=False),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.Column("lane", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("body_hash", sa.Text(), nullable=False),
        sa.Column("seed", NUMBER, nullable=False),
        sa.Column("hold_microusd", NUMBER, nullable=False),
        sa.Column("unknown_microusd", NUMBER, nullable=False),
        sa.Column("charge_microusd", NUMBER, nullable=True),
        sa.Column("ticket", sa.Text(), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("cause", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("counts", sa.Text(), nullable=True),
        sa.Column("planned_at", UtcTime(), nullable=False),
        *(sa.Column(f"{name}_at", UtcTime(), nullable=True) for name in ("sent", "accepted", "ended", "settled")),
        sa.CheckConstraint(f"state IN ({states})", name="ck_attempt_state"),
        sa.CheckConstraint("state IN ('planned', 'abandoned') OR sent_at IS NOT NULL", name="ck_attempt_sent"),
        sa.CheckConstraint("state <> 'accepted' OR ticket IS NOT NULL", name="ck_attempt_ticket"),
        sa.CheckConstraint("state <> 'done' OR result IS NOT NULL", name="ck_attempt_result"),
        sa.CheckConstraint(
            "(state IN ('done', 'refused', 'unknown', 'abandoned')) = (ended_at IS NOT NULL)", name="ck_attempt_ended"
        ),
        sa.CheckConstraint(
            "settled_at IS NULL OR (ended_at IS NOT NULL AND charge_microusd IS NOT NULL)", name="ck_attempt_settled"
        ),
        sa.CheckConstraint(
            "hold_microusd >= 0 AND unknown_microusd >= 0 AND charge_microusd >= 0", name="ck_attempt_money"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_attempt"),
    )
    op.create_index("ix_attempt_job", "attempt", ["job_id"], unique=False)
    op.create_index("ix_attempt_target", "attempt", ["target", "key", "ended_at"], unique=False)
    op.create_index(
        "ix_attempt_open",
        "attempt",
        ["job_id", "image", "lane"],
        unique=True,
        sqlite_where=OPEN,
        postgresql_where=OPEN,
    )
