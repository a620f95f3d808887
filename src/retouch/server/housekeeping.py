"""What must happen now and then while the server is up: rescue, deadlines, retention. Decides none of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime

import structlog
from starlette.concurrency import run_in_threadpool

from retouch.errors import Unavailable
from retouch.service import Service
from retouch.storage.blobs import Blobs

logger = structlog.get_logger(__name__)

JOBS_EVERY_S = 1.0
FILES_EVERY_S = 60.0


class Housekeeping:
    """Calls `service.sweep` each second and `blobs.sweep` each minute, between `start` and `stop`."""

    def __init__(self, service: Service, blobs: Blobs) -> None:
        self._service = service
        self._blobs = blobs
        self._task: asyncio.Task[None] | None = None
        self._away = False

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="housekeeping")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        files_swept_at = time.monotonic()
        while True:
            await self._attempt(self._service.sweep)
            if time.monotonic() - files_swept_at >= FILES_EVERY_S:
                files_swept_at = time.monotonic()
                await self._attempt(lambda: self._blobs.sweep(datetime.now(UTC)))
            await asyncio.sleep(JOBS_EVERY_S)

    async def _attempt(self, sweep: Callable[[], object]) -> None:
        """Sweep, and say once when that begins or ceases to be possible."""
        try:
            await run_in_threadpool(sweep)
        except Unavailable as error:
            if not self._away:
                logger.warning("housekeeping has to wait", reason=error.message)
            self._away = True
        else:
            if self._away:
                logger.info("housekeeping goes on")
            self._away = False
