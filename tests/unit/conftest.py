"""Fixtures of the unit tests; SQLite is enough here, the conformance suites run on both databases."""

from __future__ import annotations

from tests.harness import sqlite_world

__all__ = ["sqlite_world"]
