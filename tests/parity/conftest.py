"""Tiny checkpoints of each family, written once for a whole run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from retouch.images import Pixels
from tests import tiny_checkpoints
from tests.tiny_checkpoints import Kind


@pytest.fixture(scope="session", autouse=True)
def two_threads() -> None:
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Kind], Path]:
    """The folder of a tiny checkpoint of one kind."""
    folders: dict[Kind, Path] = {}

    def folder(kind: Kind) -> Path:
        if kind not in folders:
            folders[kind] = tiny_checkpoints.build(tmp_path_factory.mktemp(kind) / "model", kind)
        return folders[kind]

    return folder


def picture(seed: int, width: int, height: int) -> Pixels:
    """Coloured blobs, the same for the same arguments."""
    cells = np.random.default_rng(seed).integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    return np.ascontiguousarray(cells.repeat(16, 0).repeat(16, 1)[:height, :width])
