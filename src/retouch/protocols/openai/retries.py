"""Who waits for which edit right now, so that a repeated call joins it and an abandoned one is stopped.

The official SDKs hang up when they lose patience, pause, and send the same body again: such an edit is kept for as long
as the next try may take to come. The memory is of one server process; an `Idempotency-Key` is the durable way to the
same end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from weakref import WeakValueDictionary

from retouch.accounts.keys import Account
from retouch.jobs.job import Job

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 8.0
"""Both SDKs pause for half a second before the first retry, and twice as long before each further one."""

MARGIN_S = 3.0
"""Time for the next try to connect and to send its headers, beyond its pause."""

LONGEST_KEPT_S = 60.0
"""How long an edit without a caller is kept in all; further uploads of its account do not prolong that."""


def pause_before_retry_s(attempt: int) -> float:
    """The longest pause of the SDKs after the try with the number `attempt`, counted from 0."""
    return min(FIRST_PAUSE_S * 2.0 ** min(attempt, 10), LONGEST_PAUSE_S)


@dataclass(slots=True)
class _Edit:
    """digest: of the call's body, None where a retry cannot be recognised. attempt: number of its latest try.

    left_at: when its last caller hung up, in the loop's time.
    """

    account: Account
    job: Job
    digest: str | None
    attempt: int = 0
    waiting: int = 0
    left_at: float = 0.0
    stop: asyncio.TimerHandle | None = None


class Retries:
    """The edits of one face that are waited for. Use it from the event loop only.

    cancel: stops the job of an edit that is given up.
    """

    def __init__(self, cancel: Callable[[Account, str], Awaitable[None]]) -> None:
        self._cancel = cancel
        self._edits: dict[str, _Edit] = {}  # by job id
        self._by_digest: dict[tuple[str, str], _Edit] = {}  # by account id and digest: the latest
        self._submitting: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._uploads: Counter[str] = Counter()  # retries whose body is being read, by account id
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.contextmanager
    def uploading(self, account: Account, attempt: int | None) -> Iterator[None]:
        """While the body of a retry is read, nothing of the account is given up: only its end tells what it repeats.

        An upload that is cut off counts as a try like any other, so the next one is waited for anew. attempt: None for
        a client that does not count its tries.
        """
        if not attempt:
            yield
            return
        self._uploads[account.id] += 1
        for edit in self._unattended(account):
            self._keep(edit)
        try:
            yield
        finally:
            self._uploads[account.id] -= 1
            if not self._uploads[account.id]:
                del self._uploads[account.id]
                for edit in self._unattended(account):
                    edit.attempt = max(edit.attempt, attempt)
                    self._stop_later(edit)

    async def join_or_submit(
        self, account: Account, digest: str, attempt: int, submit: Callable[[], Awaitable[Job]]
    ) -> Job:
        """The job that a retry repeats, as it was submitted, else a new one; the caller counts as waiting for it.

        One at a time for each body, so that a retry also finds an edit which is being submitted.
        """
        key = account.id, digest
        lock = self._submitting.setdefault(key, asyncio.Lock())
        async with lock:
            edit = self._by_digest.get(key) if attempt else None
            if edit is None:
                edit = _Edit(account, await submit(), digest)
                self._edits[edit.job.id] = self._by_digest[key] = edit
            self._keep(edit)
            edit.waiting += 1
            edit.attempt = attempt
            return edit.job

    def wait_once(self, account: Account, job: Job) -> None:
        """The caller waits for a job that no retry can find."""
        self._edits[job.id] = _Edit(account, job, None, waiting=1)

    def leave(self, job_id: str, *, answered: bool) -> None:
        """A caller got its answer, or hung up; when it was the last one, the edit is stopped, if need be later."""
        edit = self._edits[job_id]
        edit.waiting -= 1
        if edit.waiting:
            return
        edit.left_at = asyncio.get_running_loop().time()
        if answered:
            self._forget(edit)
        elif edit.digest is None:
            self._stop(edit)
        elif edit.account.id not in self._uploads:
            self._stop_later(edit)

    def _unattended(self, account: Account) -> list[_Edit]:
        return [edit for edit in self._edits.values() if not edit.waiting and edit.account.id == account.id]

    def _keep(self, edit: _Edit) -> None:
        if edit.stop is not None:
            edit.stop.cancel()
            edit.stop = None

    def _stop_later(self, edit: _Edit) -> None:
        loop = asyncio.get_running_loop()
        left_s = max(0.0, edit.left_at + LONGEST_KEPT_S - loop.time())
        edit.stop = loop.call_later(min(pause_before_retry_s(edit.attempt) + MARGIN_S, left_s), self._stop, edit)

    def _stop(self, edit: _Edit) -> None:
        self._forget(edit)
        task = asyncio.ensure_future(self._cancel(edit.account, edit.job.id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _forget(self, edit: _Edit) -> None:
        self._keep(edit)
        del self._edits[edit.job.id]
        if edit.digest is not None and self._by_digest.get((edit.account.id, edit.digest)) is edit:
            del self._by_digest[edit.account.id, edit.digest]
