"""The two servers that most files of SDK tests stand before; each file starts its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.live_server import LiveServer, live_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """With a worker and without a key."""
    with live_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def idle_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Without a worker and with a key: whatever is submitted waits."""
    data = tmp_path_factory.mktemp("idle-server")
    with live_server(data, key=True, ready=False, arguments=("--workers", "0")) as running:
        yield running
