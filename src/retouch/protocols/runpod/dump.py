"""Jobs in RunPod's shapes: ids, states, the job object, its output, health. Plain values in, plain values out.

A field without a value is left out: no answer holds a null. It reads no storage and knows no HTTP.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import orjson

from retouch.edit import Notice
from retouch.errors import InvalidRequest, UnknownJob
from retouch.jobs.job import Job, JobState, QueueLoad
from retouch.protocols.outcome import dump_notices, failure_in_wire_names, notices_in_wire_names
from retouch.protocols.runpod.errors import TIMED_OUT, sentence_of

PROTOCOL = "runpod"

SYNC_OPTION, BASE64_OPTION = "sync", "base64"
NAMES_OPTION, NOTICES_OPTION, INPUT_OPTION, ORIGIN_OPTION = "names", "notices", "input", "origin"
"""What `Delivery.options` keeps of a request: flags, the caller's names of fields, what was not done, the input as it
came but for image files, and this server's address as the caller wrote it."""

_ID = re.compile(r"(?:sync-)?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:-[a-z]\d)?")
_REGION = "u1"
"""The vendor's ids end with a region; here there is one."""

_SHOWN_FILE_CHARACTERS = 64

_STATUSES: Mapping[JobState, str] = {
    JobState.QUEUED: "IN_QUEUE",
    JobState.RUNNING: "IN_PROGRESS",
    JobState.SUCCEEDED: "COMPLETED",
    JobState.FAILED: "FAILED",
    JobState.CANCELLED: "CANCELLED",
}


def job_id_of(text: str) -> str:
    """Our id in a caller's one; raises UnknownJob for a text that cannot be one."""
    match = _ID.fullmatch(text)
    if match is None:
        raise UnknownJob("There is no such job.")
    return match[1]


def wire_id(job: Job) -> str:
    prefix = "sync-" if SYNC_OPTION in job.delivery.options else ""
    return f"{prefix}{job.id}-{_REGION}"


def status_of(job: Job) -> str:
    if job.failure is not None and job.failure.code in TIMED_OUT:
        return "TIMED_OUT"
    return _STATUSES[job.state]


def worker_id(name: str) -> str:
    """A worker's name without the name of its machine: as long and as opaque as the vendor's ids."""
    digest = base64.b32encode(hashlib.sha256(name.encode()).digest())
    return digest[:14].decode().lower()


def dump_state(job: Job) -> dict[str, Any]:
    """Id and status; of a failed job its error as well."""
    return {"id": wire_id(job), "status": status_of(job), **_error(job)}


def dump_job(
    job: Job,
    output: Mapping[str, Any] | None = None,
    *,
    wait_s: float | None = None,
    seconds_left: float | None = None,
    now: datetime | None = None,
) -> dict[str, Any]:
    """The job object. output: of a succeeded job, from `dump_output`; a running one shows its progress there.

    wait_s: from `now` until a waiting job starts, as predicted; seconds_left: until a running one has its images.
    """
    body: dict[str, Any] = {"id": wire_id(job), "status": status_of(job)}
    if job.state is JobState.QUEUED and wait_s is not None and now is not None:
        body["delayTime"] = _milliseconds(job.queued_at, now + timedelta(seconds=wait_s))
    started_or_ended = job.started_at or job.finished_at
    if started_or_ended is not None:
        body["delayTime"] = _milliseconds(job.queued_at, started_or_ended)
    if job.finished_at is not None:
        body["executionTime"] = _milliseconds(job.started_at or job.finished_at, job.finished_at)
    if job.worker is not None and job.started_at is not None:
        body["workerId"] = worker_id(job.worker)
    if job.retries:
        body["retries"] = job.retries
    if output is not None:
        body["output"] = output
    elif job.state is JobState.RUNNING and job.step:
        left = {} if seconds_left is None else {"seconds_left": round(seconds_left, 1)}
        body["output"] = {**dump_progress(job.step, job.steps), **left}
    return {**body, **_error(job)}


def dump_progress(step: int, steps: int) -> dict[str, Any]:
    return {"progress": round(step / steps, 4) if steps else 0.0, "step": step, "steps": steps}


def dump_output(job: Job, links: Sequence[str], cost: float, file: bytes | None = None) -> dict[str, Any]:
    """The output object of a succeeded job. links: of its images, in order. file: the first image, wanted as base64."""
    assert job.output is not None, "a succeeded job whose payload is kept has an output"
    body: dict[str, Any] = {
        "image_url": links[0],
        "result": links[0] if file is None else base64.b64encode(file).decode(),
        "cost": cost,
        "seed": job.output.images[0].seed,
    }
    if any(image.unsafe is not None for image in job.output.images):
        body["has_nsfw_concepts"] = [bool(image.unsafe) for image in job.output.images]
    if job.output.prompt != job.request.prompt:
        body["revised_prompt"] = job.output.prompt
    notices = notices_of(job)
    return {**body, "notices": dump_notices(notices)} if notices else body


def dump_partial(link: str, step: int, steps: int) -> dict[str, Any]:
    """A look at the unfinished image, as a chunk of a stream has it."""
    return {"partial_image_url": link, **dump_progress(step, steps)}


def dump_health(load: QueueLoad) -> dict[str, Any]:
    """Counts of the caller's jobs and of the workers that serve the endpoint."""
    running = min(load.busy_workers, load.ready_workers)
    return {
        "jobs": {
            "completed": load.jobs[JobState.SUCCEEDED],
            "failed": load.jobs[JobState.FAILED],
            "inProgress": load.jobs[JobState.RUNNING],
            "inQueue": load.jobs[JobState.QUEUED],
            "retried": load.retried,
        },
        "workers": {
            "idle": load.ready_workers - running,
            "initializing": load.loading_workers,
            "ready": load.ready_workers,
            "running": running,
            "throttled": 0,
            "unhealthy": 0,
        },
    }


def notices_of(job: Job) -> tuple[Notice, ...]:
    """Everything that was not done as asked, in the caller's names."""
    of_submit = [Notice(**notice) for notice in orjson.loads(job.delivery.options.get(NOTICES_OPTION, "[]"))]
    found = (*of_submit, *(job.output.notices if job.output is not None else job.notices))
    names = names_of(job)
    return notices_in_wire_names(found, lambda field: names.get(field, field))


def names_of(job: Job) -> Mapping[str, str]:
    """The caller's name of each canonical field that has another one."""
    names: Mapping[str, str] = orjson.loads(job.delivery.options.get(NAMES_OPTION, "{}"))
    return names


def remembered_input(given: Mapping[str, Any]) -> str:
    """The input as a job keeps it for its webhook: whole, but the text of a file is cut. Raises InvalidRequest."""
    try:
        return orjson.dumps({name: _cut(value) for name, value in given.items()}).decode()
    except (RecursionError, TypeError):  # what comes as JSON may be nested more deeply than can be written
        raise InvalidRequest("The field 'input' is nested too deeply.", field="input") from None


def _cut(value: Any) -> Any:
    if isinstance(value, list):
        return [_cut(entry) for entry in value]
    if isinstance(value, dict):
        return {name: _cut(entry) for name, entry in value.items()}
    # Prompts and links are shorter; what is longer and one word is a file.
    if isinstance(value, str) and len(value) > 4096 and " " not in value[:256]:
        return f"{value[:_SHOWN_FILE_CHARACTERS]}…"
    return value


def _error(job: Job) -> dict[str, str]:
    if job.failure is None:
        return {}
    names = names_of(job)
    return {"error": sentence_of(failure_in_wire_names(job.failure, lambda field: names.get(field, field)))}


def _milliseconds(begin: datetime, end: datetime) -> int:
    return max(0, round((end - begin).total_seconds() * 1000))
