"""What Alembic runs to get a connection; ours comes from `migrations.upgrade`, already in a transaction."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
