"""The application as `serve` builds it, on a fresh data folder, spoken to in process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx2
import pytest

from retouch import settings
from retouch.catalog import Catalog, checkpoint_named
from retouch.cli.database import open_database
from retouch.cli.serve import open_dependencies
from retouch.protocols.dependencies import AppDependencies
from retouch.server.app import create_app


@pytest.fixture
def dependencies(tmp_path: Path) -> Iterator[AppDependencies]:
    store = settings.read(settings.StoreSettings, data=tmp_path)
    http = settings.read(settings.HttpSettings)
    with (
        open_database(store) as database,
        open_dependencies(http, store, Catalog.serving(checkpoint_named("null")), database) as built,
    ):
        yield built


@pytest.fixture
async def client(dependencies: AppDependencies) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(create_app(dependencies), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://retouch.test") as client:
        yield client
