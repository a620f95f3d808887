"""Fixtures of the conformance suites."""

from __future__ import annotations

import pytest

from retouch.jobs import fair_queue
from tests.databases import database, database_url, postgres_url
from tests.harness import sqlite_world, world

__all__ = ["database", "database_url", "postgres_url", "sqlite_world", "strict_turns", "world"]


@pytest.fixture
def strict_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """No burst goes before others and no start moves the clock by itself: turns can be told from the first job on."""
    monkeypatch.setattr(fair_queue, "ALLOWANCE", 0)
    monkeypatch.setattr(fair_queue, "DRIFT", 2**62)
