"""The first schema: jobs with their order, events, webhooks and workers; accounts, keys and usage."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "account",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("weight", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("weight >= 1", name="ck_account_weight"),
        sa.PrimaryKeyConstraint("id", name="pk_account"),
        sa.UniqueConstraint("name", name="uq_account_name"),
    )
    op.create_table(
        "fair_clock",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("tag", NUMBER, nullable=False),
        sa.PrimaryKeyConstraint("queue", "priority", name="pk_fair_clock"),
    )
    op.create_table(
        "fair_share",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("next_tag", NUMBER, nullable=False),
        sa.Column("waiting", sa.Integer(), nullable=False),
        sa.CheckConstraint("waiting >= 0", name="ck_fair_share_waiting"),
        sa.PrimaryKeyConstraint("queue", "priority", "account_id", name="pk_fair_share"),
    )
    op.create_index("ix_fair_share_account", "fair_share", ["account_id"], unique=False)
    op.create_table(
        "idempotency",
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("body_hash", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "key", name="pk_idempotency"),
    )
    op.create_index("ix_idempotency_expires_at", "idempotency", ["expires_at"], unique=False)
    op.create_index("ix_idempotency_job", "idempotency", ["job_id"], unique=False)
    op.create_table(
        "job",
        sa.Column("sequence", NUMBER, sa.Identity(always=False), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("fair_tag", NUMBER, nullable=False),
        sa.Column("fair_cost", NUMBER, nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("delivery", sa.Text(), nullable=False),
        sa.Column("notices", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("claims", sa.Integer(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("steps", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("start_by", sa.DateTime(timezone=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("output", sa.Text(), nullable=True),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.Column("usage", sa.Text(), nullable=True),
        sa.Column("payload_deleted", sa.Boolean(), nullable=False),
        sa.CheckConstraint("(state = 'failed') = (failure IS NOT NULL)", name="ck_job_failure"),
        sa.CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name="ck_job_lease"),
        sa.CheckConstraint("(state = 'succeeded') = (usage IS NOT NULL)", name="ck_job_usage"),
        sa.CheckConstraint(
            "(state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)", name="ck_job_finished"
        ),
        sa.CheckConstraint(
            "state <> 'running' OR (worker IS NOT NULL AND started_at IS NOT NULL)", name="ck_job_running"
        ),
        sa.CheckConstraint("state <> 'succeeded' OR output IS NOT NULL OR payload_deleted", name="ck_job_output"),
        sa.CheckConstraint("state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name="ck_job_state"),
        sa.CheckConstraint("(finished_at IS NOT NULL) = (expires_at IS NOT NULL)", name="ck_job_expires"),
        sa.CheckConstraint("attempt >= 0 AND claims >= attempt", name="ck_job_attempt"),
        sa.PrimaryKeyConstraint("sequence", name="pk_job"),
        sa.UniqueConstraint("id", name="uq_job_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_job_account", "job", ["account_id", "sequence"], unique=False)
    op.create_index(
        "ix_job_expires_at",
        "job",
        ["expires_at"],
        unique=False,
        sqlite_where=sa.text("expires_at IS NOT NULL"),
        postgresql_where=sa.text("expires_at IS NOT NULL"),
    )
    op.create_index(
        "ix_job_running",
        "job",
        ["lease_until"],
        unique=False,
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_index(
        "ix_job_start_by",
        "job",
        ["start_by"],
        unique=False,
        sqlite_where=sa.text("state = 'queued' AND start_by IS NOT NULL"),
        postgresql_where=sa.text("state = 'queued' AND start_by IS NOT NULL"),
    )
    op.create_index(
        "ix_job_waiting",
        "job",
        ["queue", "priority", "fair_tag", "sequence", "state"],
        unique=False,
        sqlite_where=sa.text("state = 'queued'"),
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_table(
        "job_tally",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("jobs", NUMBER, nullable=False),
        sa.PrimaryKeyConstraint("queue", "state", name="pk_job_tally"),
    )
    op.create_table(
        "queue_block",
        sa.Column("id", NUMBER, sa.Identity(always=False), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("lower_priority", sa.Integer(), nullable=False),
        sa.Column("lower_tag", NUMBER, nullable=False),
        sa.Column("lower_sequence", NUMBER, nullable=False),
        sa.Column("upper_priority", sa.Integer(), nullable=False),
        sa.Column("upper_tag", NUMBER, nullable=False),
        sa.Column("upper_sequence", NUMBER, nullable=False),
        sa.Column("waiting", sa.Integer(), nullable=False),
        sa.CheckConstraint("waiting >= 0", name="ck_queue_block_waiting"),
        sa.PrimaryKeyConstraint("id", name="pk_queue_block"),
        postgresql_with={"fillfactor": "50"},
    )
    op.create_index(
        "ix_queue_block_lower", "queue_block", ["queue", "lower_priority", "lower_tag", "lower_sequence"], unique=True
    )
    op.create_table(
        "usage_entry",
        sa.Column("id", NUMBER, sa.Identity(always=False), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("images", NUMBER, nullable=False),
        sa.Column("pixels", NUMBER, nullable=False),
        sa.Column("steps", NUMBER, nullable=False),
        sa.Column("device_ms", NUMBER, nullable=False),
        sa.Column("price_microusd", NUMBER, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("price_microusd >= 0", name="ck_usage_entry_price"),
        sa.PrimaryKeyConstraint("id", name="pk_usage_entry"),
        sa.UniqueConstraint("job_id", name="uq_usage_entry_job_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_usage_entry_account", "usage_entry", ["account_id", "created_at"], unique=False)
    op.create_table(
        "worker",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("queues", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("state IN ('loading', 'ready')", name="ck_worker_state"),
        sa.PrimaryKeyConstraint("name", name="pk_worker"),
    )
    op.create_table(
        "api_key",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("secret_hash", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name="fk_api_key_account_id"),
        sa.PrimaryKeyConstraint("id", name="pk_api_key"),
        sa.UniqueConstraint("secret_hash", name="uq_api_key_secret_hash"),
    )
    op.create_index("ix_api_key_account", "api_key", ["account_id"], unique=False)
    op.create_table(
        "job_event",
        sa.Column("id", NUMBER, sa.Identity(always=False), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('state', 'step', 'log', 'preview')", name="ck_job_event_kind"),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_job_event_job_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_job_event"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_job_event_job", "job_event", ["job_id", "id"], unique=False)
    op.create_table(
        "webhook_outbox",
        sa.Column("id", NUMBER, sa.Identity(always=False), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_webhook_outbox_job_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_outbox"),
        sa.UniqueConstraint("job_id", name="uq_webhook_outbox_job_id"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_webhook_outbox_due",
        "webhook_outbox",
        ["next_attempt_at"],
        unique=False,
        sqlite_where=sa.text("next_attempt_at IS NOT NULL"),
        postgresql_where=sa.text("next_attempt_at IS NOT NULL"),
    )
