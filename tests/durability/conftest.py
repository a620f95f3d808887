"""Fixtures of the durability tests: both databases, and a deployment on each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.databases import database_url, postgres_url
from tests.harness import Deployment

__all__ = ["bench", "database_url", "postgres_url"]


@pytest.fixture
def bench(database_url: str, tmp_path: Path) -> Iterator[Deployment]:
    """For workers, on each database."""
    with Deployment(tmp_path, database_url, uploads=True) as bench:
        yield bench
