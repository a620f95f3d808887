"""The durable record of one edit, its states, and the rules that take it from one to the next.

    queued ──► running ──► succeeded
       │  ▲       │  ├───► failed
       │  └───────┘  └───► cancelled
       ├─────────────────► cancelled
       └─────────────────► failed

running goes back to queued when a lease expires with attempts left, or when a worker stops cleanly
(which costs no attempt); failed does when its owner retries it. Nothing here touches a database; `store.py` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import TypeAlias

from retouch.edit import Delivery, EditOutput, EditRequest, Notice, Usage
from retouch.errors import Failure

PRIORITY_NORMAL = 100
PRIORITY_LOW = 200
"""Smaller runs first. `low` waits behind every `normal` job of the same queue (fal's header)."""

MAX_ATTEMPTS = 3
"""A job whose worker died this many times fails with `worker_lost`."""

MAX_DEVICE_LOSSES = 2
"""The same for a job at whose step the device failed: it is probably the cause, and others wait for the restart."""


class JobState(StrEnum):
    QUEUED = "queued"  #: waiting for a worker; has a position
    RUNNING = "running"  #: a worker holds its lease
    SUCCEEDED = "succeeded"  #: has an output and a usage entry
    FAILED = "failed"  #: has a failure with a code
    CANCELLED = "cancelled"  #: by its owner; nothing is billed

    @property
    def final(self) -> bool:
        return self in FINAL_STATES


FINAL_STATES = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


@dataclass(frozen=True, slots=True)
class Job:
    """One row of the job table. Times are timezone-aware UTC.

    sequence: order of submission, unique; 0 before it is written. priority: smaller first. fair_tag, fair_cost, cost,
    quick: its turn within the priority (fair_queue.py). key_id: which of the account's keys submitted it; empty for the
    anonymous account. attempt: 0 while it never ran. notices: what the submit answered about parameters.
    cancel_requested: the owner wants it stopped while it is running. step, steps: progress of the edit
    in denoise steps, all images together. start_by: fail with `start_timeout` when still queued then.
    expires_at: the row and its files are deleted after this. payload_deleted: request and output were
    removed on the owner's wish. worker: who runs it, or ran it last. run_timeout_s: of one run, where its caller set
    a limit; end_by: it fails when it has not ended then. queued_at: when it joined the queue for the run it is in, or
    had last. retries: by its owner, after it had failed.
    """

    id: str
    account_id: str
    queue: str
    state: JobState
    request: EditRequest
    delivery: Delivery
    created_at: datetime
    queued_at: datetime
    sequence: int = 0
    priority: int = PRIORITY_NORMAL
    attempt: int = 0
    cancel_requested: bool = False
    step: int = 0
    steps: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None
    start_by: datetime | None = None
    expires_at: datetime | None = None
    output: EditOutput | None = None
    failure: Failure | None = None
    usage: Usage | None = None
    payload_deleted: bool = False
    key_id: str = ""
    fair_tag: int = 0
    fair_cost: int = 0
    cost: int = 0
    quick: bool = False
    notices: tuple[Notice, ...] = ()
    worker: str | None = None
    run_timeout_s: float | None = None
    end_by: datetime | None = None
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Lease:
    """A worker's right to a job for a time. (job.id, worker, claim) fences every later write.

    claim: how often the job was ever leased. `Job.attempt` does not count leases that were given back, so it
    could be the same for two leases of one worker, and the late writes of the first would pass as the second's.
    """

    job: Job
    worker: str
    claim: int


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One line of a job's append-only history.

    id: grows with time over all jobs, usable as SSE's Last-Event-ID. kind: `state`, `step`, `log`,
    `preview`. data: small JSON, e.g. {"state": "running"}, {"step": 3, "steps": 8},
    {"level": "INFO", "message": "…"}, {"blob": "previews/…", "image": 0, "step": 3} (see `Preview`).
    """

    id: int
    job_id: str
    kind: str
    data: Mapping[str, object]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Preview:
    """An unfinished image. image: which of the job's it is, from 0. step: the denoise steps it had by then."""

    blob: str
    image: int
    step: int


@dataclass(frozen=True, slots=True)
class QueueLoad:
    """One account's jobs in a queue by state, as far as they are kept, and the workers that serve the queue.

    retried: jobs that their owner has retried. busy_workers: those that hold a job of any account.
    """

    jobs: Mapping[JobState, int]
    retried: int
    ready_workers: int
    loading_workers: int
    busy_workers: int


def state_after_lost_lease(job: Job, max_attempts: int) -> JobState:
    """Where a running job goes whose worker has gone silent."""
    if job.cancel_requested:
        return JobState.CANCELLED
    return JobState.FAILED if job.attempt >= max_attempts else JobState.QUEUED


Clock: TypeAlias = Callable[[], datetime]
"""Tells the time, timezone-aware UTC; a test passes its own."""


utc_now: Clock = partial(datetime.now, UTC)
"""The machine's own."""


MAX_IDEMPOTENCY_KEY_CHARACTERS = 255
"""Of a key as its caller wrote it."""


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A caller's idempotency key and the hash of the body it came with (sha256, hex)."""

    key: str
    body_hash: str
