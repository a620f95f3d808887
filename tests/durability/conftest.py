"""Fixtures of the durability tests: both databases, and a workbench on each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.databases import database, database_url, postgres_url
from tests.unit.worker.bench import WorkBench

__all__ = ["bench", "database", "database_url", "postgres_url"]


@pytest.fixture
def bench(database_url: str, tmp_path: Path) -> Iterator[WorkBench]:
    """A service on each database, with its data folder."""
    workbench = WorkBench(tmp_path, database_url)
    yield workbench
    workbench.close()
