"""Server-sent events: the status of a queued request as it changes, and `/stream`, an edit as it appears.

Every event is one JSON document in `data:`; there is no closing word, the body just ends. It reads a job's
history and stores nothing.
"""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from retouch import images
from retouch.accounts.keys import Account
from retouch.errors import UnknownFile
from retouch.jobs.job import Job, JobEvent, JobState
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.events import (
    KEEP_ALIVE_S,
    EventStreamResponse,
    has_ended,
    history,
    sse_comment,
    sse_data,
)
from retouch.protocols.fal import dump
from retouch.protocols.fal.errors import answer_to_failure
from retouch.protocols.outcome import failure_of, output_urls
from retouch.protocols.submit import cancel_abandoned
from retouch.service import Submitted

POSITION_S = 1.0
"""How often a waiting caller's position is looked at; it changes without an event of its own job."""

FIRST_NEWS_S = 15.0
"""How long `/stream` waits for the work to begin before it answers at all, so that an edit which fails before
is answered with its own HTTP status. Some clients give up on an answer without headers after minutes."""

SUFFIX = "/stream"


def status_stream(dependencies: AppDependencies, job: Job, urls: dump.RequestUrls, *, logs: bool) -> Response:
    """The status objects of a request, one at once and one at each change, the completed one last."""
    return EventStreamResponse(_statuses(dependencies, job.id, urls, logs=logs))


async def _statuses(
    dependencies: AppDependencies, job_id: str, urls: dump.RequestUrls, *, logs: bool
) -> AsyncIterator[bytes]:
    last: dict[str, Any] = {}
    notices_sent = False

    def frame(job: Job, position: int, seconds_left: float | None, news: Sequence[JobEvent]) -> bytes:
        """The event for a state, or nothing when it says the same as the one before."""
        nonlocal last, notices_sent
        lines = dump.dump_logs(job, news, known_notices=not notices_sent) if logs else None
        # `dump_logs` tells what was known at submit with the first events of an edit that runs: once a stream.
        notices_sent = notices_sent or (bool(news) and job.state is not JobState.QUEUED)
        body = dump.dump_status(job, urls, position, lines, seconds_left=seconds_left)[1]
        before, last = last, {**body, "logs": None, "metrics": None}  # time that passes is no news
        return sse_data(body) if lines or last != before else b""

    service, watch = dependencies.service, dependencies.watch
    known = await run_in_threadpool(service.events, job_id)
    job = await run_in_threadpool(service.get_any, job_id)
    seconds_left = await run_in_threadpool(service.seconds_left, job)
    yield frame(job, await run_in_threadpool(service.position, job), seconds_left, known)
    if job.state.final:
        return
    silent_s = 0.0
    async for news in history(watch, job_id, pause_s=POSITION_S, after=known[-1].id if known else 0):
        job, position, seconds_left, _ = await watch.snapshot(job_id)
        if has_ended(news):
            # The shared snapshot may be older than the event that ended the job.
            job, position = await run_in_threadpool(service.get_any, job_id), 0
        data = frame(job, position, seconds_left, news)
        silent_s = 0.0 if data else silent_s + POSITION_S
        if silent_s >= KEEP_ALIVE_S:
            data, silent_s = sse_comment("ping"), 0.0
        if data:
            yield data


async def stream(dependencies: AppDependencies, account: Account, submitted: Submitted, origin: str) -> Response | None:
    """An edit with its images as they get clearer; the last event is the output object. origin: of links to files.

    A caller who hangs up cancels the edit. None for an edit that failed before it showed anything.
    """
    job_id = submitted.job.id
    batches = history(dependencies.watch, job_id)
    first: list[JobEvent] = []
    until = asyncio.get_running_loop().time() + FIRST_NEWS_S
    async for batch in batches:
        first += batch
        begun = any(event.kind in ("step", "preview") for event in first)
        if begun or has_ended(first) or asyncio.get_running_loop().time() >= until:
            break
    if failure_of(await run_in_threadpool(dependencies.service.get_any, job_id)) is not None:
        return None
    frames = _edit_frames(dependencies, submitted.job, first, batches, origin)
    response = EventStreamResponse(frames)
    response.background = BackgroundTask(cancel_abandoned, dependencies, account, submitted)
    return response


async def _edit_frames(
    dependencies: AppDependencies,
    job: Job,
    first: Sequence[JobEvent],
    batches: AsyncIterator[tuple[JobEvent, ...]],
    origin: str,
) -> AsyncIterator[bytes]:
    progress: dict[str, Any] = {}
    for body in await run_in_threadpool(_partials, dependencies, job, first, origin, progress):
        yield sse_data(body)
    if not has_ended(first):
        async for batch in batches:
            if not batch:
                yield sse_comment("ping")
            for body in await run_in_threadpool(_partials, dependencies, job, batch, origin, progress):
                yield sse_data(body)
    job = await run_in_threadpool(dependencies.service.get_any, job.id)
    failure = failure_of(job)
    if failure is None:
        yield sse_data(dump.dump_result(job, await run_in_threadpool(output_urls, dependencies, job, origin)))
    else:
        answer = answer_to_failure(failure, dump.endpoint_of(job))
        yield sse_data({**answer.body, "error": answer.text, "error_type": answer.kind})


def _partials(
    dependencies: AppDependencies, job: Job, news: Sequence[JobEvent], origin: str, progress: dict[str, Any]
) -> list[dict[str, Any]]:
    """One event for each preview, with the index of the image it shows; one for the steps after the last of them.

    progress: what was last told, brought up to date; a preview may come later than the step it is of.
    """
    partials: list[dict[str, Any]] = []
    stepped = False
    for event in news:
        if event.kind == "step":
            progress |= {"step": event.data["step"], "steps": event.data["steps"]}
            stepped = True
        elif event.kind == "preview":
            preview = _preview(dependencies, str(event.data["blob"]), origin, inline=job.delivery.inline)
            shown = {"images": [preview] if preview else [], "partial": True, "progress": dict(progress)}
            partials.append({**shown, "index": event.data.get("image", 0)})
            stepped = False
    if stepped:
        partials.append({"images": [], "partial": True, "progress": dict(progress)})
    return partials


def _preview(dependencies: AppDependencies, key: str, origin: str, *, inline: bool) -> dict[str, Any] | None:
    """A preview as an image of the answer; None when it is gone already."""
    media_type = mimetypes.guess_type(key)[0] or "image/jpeg"
    try:
        blob = dependencies.blobs.get(key)
    except UnknownFile:
        return None
    if inline:
        return {"url": images.data_uri(blob.data, media_type), "content_type": media_type}
    left_s = 600.0 if blob.expires_at is None else (blob.expires_at - datetime.now(UTC)).total_seconds()
    return {"url": dependencies.blobs.link(key, ttl_s=left_s, base_url=origin), "content_type": media_type}
