"""One thread for every comparison: the tensors are tiny, and waiting for a second thread costs more."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
