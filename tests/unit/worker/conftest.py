"""A fresh workbench for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.worker.bench import WorkBench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[WorkBench]:
    workbench = WorkBench(tmp_path)
    yield workbench
    workbench.close()
