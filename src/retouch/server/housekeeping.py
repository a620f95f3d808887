"""Calls `service.sweep` each second while the server is up. What a sweep does is in `jobs/sweep.py`."""

from __future__ import annotations

import asyncio
import contextlib

import structlog
from starlette.concurrency import run_in_threadpool

from retouch.errors import Unavailable
from retouch.service import Service

logger = structlog.get_logger(__name__)

SWEEP_EVERY_S = 1.0


class Housekeeping:
    """Sweeps between `start` and `stop`; logs once when that begins or ceases to be possible."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="housekeeping")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        away = False
        while True:
            try:
                await run_in_threadpool(self._service.sweep)
            except Unavailable as error:
                if not away:
                    logger.warning("housekeeping has to wait", reason=error.message)
                away = True
            else:
                if away:
                    logger.info("housekeeping goes on")
                away = False
            await asyncio.sleep(SWEEP_EVERY_S)
