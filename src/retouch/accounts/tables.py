"""The tables of accounts, keys and usage. Changing one needs a step in `migrations/versions/`."""

from __future__ import annotations

from sqlalchemy import Boolean, CheckConstraint, Column, ForeignKey, Identity, Index, Integer, Table, Text, false

from retouch.database import Number, UtcTime, metadata

account = Table(
    "account",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("weight", Integer, nullable=False),  # share of a busy queue, beside accounts of weight 1
    Column("created_at", UtcTime, nullable=False),
    CheckConstraint("weight >= 1", name="weight"),
)

api_key = Table(
    "api_key",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account_id", Text, ForeignKey("account.id"), nullable=False),
    Column("secret_hash", Text, nullable=False, unique=True),  # SHA-256, hexadecimal; see keys.py
    Column("operator", Boolean, nullable=False, server_default=false()),  # may read what every key has used
    Column("created_at", UtcTime, nullable=False),
    Column("revoked_at", UtcTime),
)
Index("ix_api_key_account", api_key.c.account_id)

usage_entry = Table(  # append-only; outlives the job it is about
    "usage_entry",
    metadata,
    Column("id", Number, Identity(), primary_key=True),
    Column("job_id", Text, nullable=False, unique=True),
    Column("account_id", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("images", Number, nullable=False),
    Column("pixels", Number, nullable=False),
    Column("steps", Number, nullable=False),
    Column("device_ms", Number, nullable=False),
    Column("price_microusd", Number, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    CheckConstraint("price_microusd >= 0", name="price"),
    sqlite_autoincrement=True,
)
Index("ix_usage_entry_account", usage_entry.c.account_id, usage_entry.c.created_at)

usage_tally = Table(  # sums of the entries, for the metrics
    "usage_tally",
    metadata,
    Column("account_id", Text, primary_key=True),
    Column("jobs", Number, nullable=False),
    Column("images", Number, nullable=False),
    Column("device_ms", Number, nullable=False),
    Column("price_microusd", Number, nullable=False),
)

server_secret = Table(  # what all processes of one server sign with; see secrets.py
    "server_secret",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),  # hexadecimal
    Column("created_at", UtcTime, nullable=False),
)

upstream_key = Table(  # callers' own keys at hosted providers, encrypted; see upstream_keys.py
    "upstream_key",
    metadata,
    Column("account_id", Text, primary_key=True),  # no foreign key: the anonymous account has no row
    Column("name", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("sealed", Text, nullable=False),  # nonce and ciphertext, hexadecimal
    Column("created_at", UtcTime, nullable=False),
)
