"""The tables of jobs. The database itself refuses a row whose columns contradict its state.

Changing a table here needs a step in `migrations/versions/`; a test compares the two. No query is here.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Table,
    Text,
    false,
    text,
)

from retouch.database import Json, Number, UtcTime, metadata

job = Table(
    "job",
    metadata,
    Column("sequence", Number, Identity(), primary_key=True),  # order of submission, never reused
    Column("id", Text, nullable=False, unique=True),
    Column("account_id", Text, nullable=False),
    Column("key_id", Text, nullable=False),  # which of the account's keys submitted it
    Column("queue", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("fair_tag", Number, nullable=False),  # see fair_queue.py, for the next four
    Column("fair_cost", Number, nullable=False),
    Column("cost", Number, nullable=False, server_default=text("0")),
    Column("quick", Boolean, nullable=False, server_default=false()),
    Column("request", Json, nullable=False),
    Column("delivery", Json, nullable=False),
    Column("notices", Json, nullable=False),
    Column("attempt", Integer, nullable=False),  # runs that counted
    Column("claims", Integer, nullable=False),  # runs ever begun; the fence, so it never goes back
    Column("worker", Text),  # who runs it, or ran it last
    Column("lease_until", UtcTime),
    Column("cancel_requested", Boolean, nullable=False),
    Column("step", Integer, nullable=False),
    Column("steps", Integer, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("start_by", UtcTime),
    Column("run_timeout_s", Float),  # what its caller allows one run
    Column("run_by", UtcTime),  # where that puts the end of the present run
    Column("end_by", UtcTime),  # end of the life its caller gave it, waiting or running
    Column("retries", Integer, nullable=False, server_default=text("0")),  # by its owner, after a failure
    Column("retried_at", UtcTime),
    Column("started_at", UtcTime),
    Column("finished_at", UtcTime),
    Column("expires_at", UtcTime),
    Column("output", Json),
    Column("failure", Json),
    Column("usage", Json),
    Column("payload_deleted", Boolean, nullable=False),
    CheckConstraint("state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name="state"),
    CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name="lease"),
    CheckConstraint("state <> 'running' OR (worker IS NOT NULL AND started_at IS NOT NULL)", name="running"),
    CheckConstraint("(state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)", name="finished"),
    CheckConstraint("(finished_at IS NOT NULL) = (expires_at IS NOT NULL)", name="expires"),
    CheckConstraint("(state = 'succeeded') = (usage IS NOT NULL)", name="usage"),
    CheckConstraint("(state = 'failed') = (failure IS NOT NULL)", name="failure"),
    CheckConstraint("state <> 'succeeded' OR output IS NOT NULL OR payload_deleted", name="output"),
    CheckConstraint("attempt >= 0 AND claims >= attempt", name="attempt"),
    sqlite_autoincrement=True,
)

_QUEUED = text("state = 'queued'")

Index(  # claiming is a scan of this from its beginning; state and cost are in it so that counting never leaves it
    "ix_job_waiting",
    job.c.queue,
    job.c.priority,
    job.c.fair_tag,
    job.c.sequence,
    job.c.state,
    job.c.cost,
    sqlite_where=_QUEUED,
    postgresql_where=_QUEUED,
)
Index(
    "ix_job_running",
    job.c.lease_until,
    sqlite_where=text("state = 'running'"),
    postgresql_where=text("state = 'running'"),
)
Index(
    "ix_job_start_by",
    job.c.start_by,
    sqlite_where=text("state = 'queued' AND start_by IS NOT NULL"),
    postgresql_where=text("state = 'queued' AND start_by IS NOT NULL"),
)
Index(
    "ix_job_expires_at",
    job.c.expires_at,
    sqlite_where=text("expires_at IS NOT NULL"),
    postgresql_where=text("expires_at IS NOT NULL"),
)
Index("ix_job_account", job.c.account_id, job.c.sequence)

job_event = Table(
    "job_event",
    metadata,
    Column("id", Number, Identity(), primary_key=True),
    Column("job_id", Text, ForeignKey("job.id", ondelete="CASCADE"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("data", Json, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    CheckConstraint("kind IN ('state', 'step', 'log', 'preview')", name="kind"),
    sqlite_autoincrement=True,
)
Index("ix_job_event_job", job_event.c.job_id, job_event.c.id)

fair_share = Table(  # what each account has taken of each line, and how many of its jobs wait there
    "fair_share",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("priority", Integer, primary_key=True),
    Column("account_id", Text, primary_key=True),
    Column("quick", Boolean, primary_key=True),
    Column("next_tag", Number, nullable=False),
    Column("waiting", Integer, nullable=False),
    CheckConstraint("waiting >= 0", name="waiting"),
)
Index("ix_fair_share_account", fair_share.c.account_id)

fair_clock = Table(  # how far each line is, and what its started jobs cost on average
    "fair_clock",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("priority", Integer, primary_key=True),
    Column("tag", Number, nullable=False),
    Column("mean_cost", Number, nullable=False, server_default=text("0")),
    Column("started", Number, nullable=False, server_default=text("0")),  # as far as the mean remembers
)

queue_block = Table(  # counts of waiting jobs by ranges of places; see fair_queue.py
    "queue_block",
    metadata,
    Column("id", Number, Identity(), primary_key=True),
    Column("queue", Text, nullable=False),
    Column("lower_priority", Integer, nullable=False),
    Column("lower_tag", Number, nullable=False),
    Column("lower_sequence", Number, nullable=False),
    Column("upper_priority", Integer, nullable=False),
    Column("upper_tag", Number, nullable=False),
    Column("upper_sequence", Number, nullable=False),
    Column("waiting", Integer, nullable=False),
    Column("cost", Number, nullable=False, server_default=text("0")),
    CheckConstraint("waiting >= 0", name="waiting"),
    postgresql_with={"fillfactor": "50"},  # the count changes with every job: leave room to update in place
)
Index(
    "ix_queue_block_lower",
    queue_block.c.queue,
    queue_block.c.lower_priority,
    queue_block.c.lower_tag,
    queue_block.c.lower_sequence,
    unique=True,
)

device_cost = Table(  # what each queue's edits take on each device, as last measured; see engine/cost.py
    "device_cost",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("device", Text, primary_key=True),
    Column("cost", Json, nullable=False),
    Column("measured_at", UtcTime, nullable=False),
)

job_tally = Table(  # how many jobs ever ended how, for the metrics; retention does not lower it
    "job_tally",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("state", Text, primary_key=True),
    Column("jobs", Number, nullable=False),
    Column("wait_ms", Number, nullable=False, server_default=text("0")),  # of succeeded ones: submit to start, and
    Column("run_ms", Number, nullable=False, server_default=text("0")),  # start to end of the run that succeeded
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("account_id", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("body_hash", Text, nullable=False),
    Column("job_id", Text, nullable=False),
    Column("expires_at", UtcTime, nullable=False),
)
Index("ix_idempotency_job", idempotency.c.job_id)
Index("ix_idempotency_expires_at", idempotency.c.expires_at)

caller_bucket = Table(  # where an image is to be put, with its caller's keys; gone when the job has ended
    "caller_bucket",
    metadata,
    Column("job_id", Text, ForeignKey("job.id", ondelete="CASCADE"), primary_key=True),
    Column("bucket", Json, nullable=False),
)

webhook_outbox = Table(  # one row per job whose caller wants a webhook, written when the job ends
    "webhook_outbox",
    metadata,
    Column("id", Number, Identity(), primary_key=True),
    Column("job_id", Text, ForeignKey("job.id", ondelete="CASCADE"), nullable=False, unique=True),
    Column("url", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", UtcTime),  # NULL: delivered, or given up
    Column("delivered_at", UtcTime),
    Column("last_error", Text),
    sqlite_autoincrement=True,
)
Index(
    "ix_webhook_outbox_due",
    webhook_outbox.c.next_attempt_at,
    sqlite_where=text("next_attempt_at IS NOT NULL"),
    postgresql_where=text("next_attempt_at IS NOT NULL"),
)

worker = Table(  # which workers say they are alive
    "worker",
    metadata,
    Column("name", Text, primary_key=True),
    Column("queues", Json, nullable=False),
    Column("device", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("seen_at", UtcTime, nullable=False),
    Column("seconds", Json, nullable=False, server_default=text("'{}'")),  # by stage, since it started
    Column("checks", Json, nullable=False, server_default=text("'{}'")),  # by stage and verdict, since it started
    Column("problem", Text),  # why it cannot get ready
    Column("facts", Json, nullable=False, server_default=text("'{}'")),  # how its model was loaded
    CheckConstraint("state IN ('loading', 'ready', 'failed')", name="state"),
)

attempt = Table(  # one row per submit to a hosted provider; outlives the job it is about, as the ledger does
    "attempt",
    metadata,
    Column("id", Text, primary_key=True),
    Column("job_id", Text, nullable=False),
    Column("account_id", Text, nullable=False),
    Column("target", Text, nullable=False),  # upstream/model
    Column("key", Text, nullable=False),  # fingerprint of the key it is sent with
    Column("image", Integer, nullable=False),  # index of the first image it is to make
    Column("images", Integer, nullable=False),
    Column("lane", Integer, nullable=False),  # 1: a hedge beside the one in lane 0
    Column("state", Text, nullable=False),
    Column("body_hash", Text, nullable=False),
    Column("seed", Number, nullable=False),
    Column("hold_microusd", Number, nullable=False),  # what it costs at most, as far as is known before
    Column("unknown_microusd", Number, nullable=False),  # what is booked when its end is never known
    Column("charge_microusd", Number),
    Column("ticket", Json),
    Column("result", Json),
    Column("cause", Text),  # a FaultKind
    Column("detail", Text),
    Column("counts", Text),  # for the breaker: good, bad, or nothing
    Column("planned_at", UtcTime, nullable=False),
    Column("sent_at", UtcTime),
    Column("accepted_at", UtcTime),
    Column("ended_at", UtcTime),
    Column("settled_at", UtcTime),  # with the end of its job
    CheckConstraint(
        "state IN ('planned', 'sending', 'accepted', 'done', 'refused', 'unknown', 'abandoned')", name="state"
    ),
    CheckConstraint("state IN ('planned', 'abandoned') OR sent_at IS NOT NULL", name="sent"),
    CheckConstraint("state <> 'accepted' OR ticket IS NOT NULL", name="ticket"),
    CheckConstraint("state <> 'done' OR result IS NOT NULL", name="result"),
    CheckConstraint("(state IN ('done', 'refused', 'unknown', 'abandoned')) = (ended_at IS NOT NULL)", name="ended"),
    CheckConstraint("settled_at IS NULL OR (ended_at IS NOT NULL AND charge_microusd IS NOT NULL)", name="settled"),
    CheckConstraint("hold_microusd >= 0 AND unknown_microusd >= 0 AND charge_microusd >= 0", name="money"),
)
Index("ix_attempt_job", attempt.c.job_id)
Index("ix_attempt_target", attempt.c.target, attempt.c.key, attempt.c.ended_at)
Index(  # an edit that is under way at a provider cannot be submitted once more, by any server
    "ix_attempt_open",
    attempt.c.job_id,
    attempt.c.image,
    attempt.c.lane,
    unique=True,
    sqlite_where=text("state IN ('sending', 'accepted')"),
    postgresql_where=text("state IN ('sending', 'accepted')"),
)

attempt_tally = Table(  # how many attempts ever ended how and what they cost, for the metrics
    "attempt_tally",
    metadata,
    Column("target", Text, primary_key=True),
    Column("state", Text, primary_key=True),
    Column("attempts", Number, nullable=False),
    Column("charge_microusd", Number, nullable=False),
)

breaker = Table(  # targets that are left alone for a while; no row: closed
    "breaker",
    metadata,
    Column("target", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("cause", Text, nullable=False),
    Column("pause_s", Float, nullable=False),
    Column("opened_at", UtcTime, nullable=False),
    Column("open_until", UtcTime, nullable=False),
    Column("probe", Text),  # the attempt that may find out whether it works again
    Column("probe_until", UtcTime),
    CheckConstraint("(probe IS NULL) = (probe_until IS NULL)", name="probe"),
)
