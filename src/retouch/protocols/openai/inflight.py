"""Who is waiting for which job right now, so that a repeated call joins and an abandoned one stops.

A job whose last caller hung up is cancelled. The official SDKs hang up and send the same body again when
they lose patience, so their jobs get a moment's grace and the repeated call joins the running job. This
is a memory of one server process; the job table knows nothing of it, and an `Idempotency-Key` is the
durable way to the same end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from retouch.accounts.keys import Account

GRACE_S = 3.0
"""The SDKs come back after 0.4 to 2 seconds, plus the time of the upload."""


@dataclass(slots=True)
class _Call:
    account: Account
    job_id: str
    digest: str | None
    waiting: int = 0
    timer: asyncio.TimerHandle | None = None


class InFlight:
    """The calls of one face that are being answered. Use from the event loop only."""

    def __init__(self, cancel: Callable[[Account, str], Awaitable[None]], *, grace_s: float = GRACE_S) -> None:
        self._cancel = cancel
        self._grace_s = grace_s
        self._by_job: dict[str, _Call] = {}
        self._by_digest: dict[tuple[str, str], str] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def find(self, account: Account, digest: str) -> str | None:
        """The job that runs for the same body of the same account, if any."""
        return self._by_digest.get((account.id, digest))

    def arrive(self, account: Account, job_id: str, digest: str | None = None) -> None:
        """A caller waits for the job. `digest` of its body lets a repeated call find it."""
        call = self._by_job.setdefault(job_id, _Call(account, job_id, digest))
        call.waiting += 1
        if call.timer is not None:
            call.timer.cancel()
            call.timer = None
        if digest is not None:
            self._by_digest[account.id, digest] = job_id

    def leave(self, job_id: str, *, answered: bool) -> None:
        """A caller got the answer, or hung up; when it was the last one, the job is stopped."""
        call = self._by_job[job_id]
        call.waiting -= 1
        if call.waiting:
            return
        if answered:
            self._forget(call)
        elif call.digest is None:
            self._stop(call)
        else:
            call.timer = asyncio.get_running_loop().call_later(self._grace_s, self._stop, call)

    def _forget(self, call: _Call) -> None:
        del self._by_job[call.job_id]
        if call.digest is not None and self._by_digest.get((call.account.id, call.digest)) == call.job_id:
            del self._by_digest[call.account.id, call.digest]

    def _stop(self, call: _Call) -> None:
        self._forget(call)
        task = asyncio.ensure_future(self._cancel(call.account, call.job_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
