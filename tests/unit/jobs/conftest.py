"""Fixtures of the job tests; SQLite is enough here, the conformance suites run on both."""

from __future__ import annotations

from tests.databases import database, database_url, postgres_url
from tests.services import world

__all__ = ["database", "database_url", "postgres_url", "world"]
