"""Sends the webhooks that ended jobs owe, with retries that survive restarts.

Which jobs owe one, and when it is tried again, is kept in the database (`jobs/outbox.py`); what it says is the
face's matter. Every address is judged when the connection is made, as those of images are.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import httpx2
import structlog

from retouch.database import Database
from retouch.errors import ForbiddenAddress, Unavailable
from retouch.jobs import outbox
from retouch.jobs.outbox import WebhookDelivery
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.face import WebhookMessage
from retouch.protocols.registry import face_named
from retouch.service import Service
from retouch.storage.addresses import OpenedAddresses
from retouch.storage.guard import Resolver, guarded_client, resolve_by_system

logger = structlog.get_logger(__name__)

LOOK_EVERY_S = 0.5
AT_ONCE = 8
TIMEOUT_S = 15.0
BUSY_S = 60.0
"""Longer than an attempt can take: a delivery without an outcome by then was being tried by a dead process."""


class Webhooks:
    """The sender of one server process; several may share a database. allow_private: as for images."""

    def __init__(
        self,
        database: Database,
        service: Service,
        *,
        allow_private: Sequence[str] = (),
        resolver: Resolver = resolve_by_system,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._database = database
        self._service = service
        self._opened = OpenedAddresses.parse(allow_private)
        self._resolver = resolver
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._away = False

    def start(self, dependencies: AppDependencies) -> None:
        self._task = asyncio.create_task(self._run(dependencies), name="webhooks")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self, dependencies: AppDependencies) -> None:
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="webhook") as threads:
            while True:
                try:
                    sent = await asyncio.get_running_loop().run_in_executor(None, self.send_due, dependencies, threads)
                    self._away = False
                except Unavailable as error:
                    sent = 0
                    if not self._away:
                        logger.warning("webhooks have to wait", reason=error.message)
                    self._away = True
                if sent < AT_ONCE:
                    await asyncio.sleep(LOOK_EVERY_S)

    def send_due(self, dependencies: AppDependencies, threads: ThreadPoolExecutor) -> int:
        """Try what is due, `AT_ONCE` at a time; returns how many were tried. Raises Unavailable."""
        with self._database.read() as connection:
            if not outbox.any_due(connection, self._clock()):
                return 0
        with self._database.transaction() as connection:
            due = outbox.take_due(connection, self._clock(), AT_ONCE, BUSY_S)
        for error in threads.map(lambda delivery: self._try(dependencies, delivery), due):
            if error is not None:
                raise error
        return len(due)

    def _try(self, dependencies: AppDependencies, delivery: WebhookDelivery) -> Unavailable | None:
        """One attempt, written either way; what a bug leaves unwritten is due again later."""
        try:
            job = self._service.get_any(delivery.job_id)
            face = face_named(job.delivery.protocol)
            assert face.webhook is not None, "a face without webhooks takes no address for one"
            trouble = self._post(delivery.url, face.webhook(dependencies, job, self._clock()))
            with self._database.transaction() as connection:
                if trouble is None:
                    outbox.delivered(connection, delivery.id, self._clock())
                    over = True
                else:
                    sentence, for_good = trouble
                    schedule, now = face.webhook_schedule, self._clock()
                    over = outbox.failed(connection, delivery, now, sentence, for_good=for_good, schedule=schedule)
            if over and (job.delivery.inline or not job.delivery.keep_payload):
                self._service.forget_payload(job.id)
        except Unavailable as error:
            return error
        except Exception:
            logger.exception("a webhook could not be sent because of a bug", job=delivery.job_id)
            return None
        log = logger.info if trouble is None else logger.warning
        log("webhook", job=delivery.job_id, attempt=delivery.attempts, trouble=trouble and trouble[0])
        return None

    def _post(self, url: str, message: WebhookMessage) -> tuple[str, bool] | None:
        """None when it was acknowledged, else what went wrong and whether that is for good."""
        headers = {**message.headers, "User-Agent": "Retouch-Webhook"}
        try:
            with (
                guarded_client(self._opened, timeout_s=TIMEOUT_S, resolver=self._resolver) as client,
                client.stream("POST", url, content=message.body, headers=headers) as answer,
            ):
                status = answer.status_code
        except ForbiddenAddress as error:
            return error.message, True
        except httpx2.InvalidURL:
            return "The address is not a valid URL.", True
        except httpx2.TimeoutException:
            return f"There was no answer within {TIMEOUT_S:g} seconds.", False
        except httpx2.HTTPError:
            return "The connection failed or broke off.", False
        if 200 <= status < 300:
            return None
        # A redirect is never followed: it would be another address than the caller gave.
        return f"It was answered with status {status}.", 300 <= status < 400
