"""Fixtures of the account tests: a database of each kind."""

from __future__ import annotations

from tests.databases import database, database_url, postgres_url

__all__ = ["database", "database_url", "postgres_url"]
