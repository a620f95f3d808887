"""Server-sent events: the status of a queued request as it changes, and `/stream`, an edit as it appears.

Every event is one JSON document in `data:`; there is no closing word, the body just ends. It reads a job's
history and stores nothing.
"""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import orjson
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from retouch import images
from retouch.errors import UnknownFile
from retouch.jobs.job import Job, JobEvent
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.fal import wire
from retouch.protocols.fal.accept import accept_request, cancel_quietly
from retouch.protocols.fal.errors import answer_to_failure
from retouch.protocols.fal.exchange import account_of, files_base_of, queue_base_of, wants_logs
from retouch.protocols.fal.results import dump_output, endpoint_of, own_job, result_response

PING_S = 10.0
"""Proxies close a connection that is silent for long; both clients skip comments."""

POSITION_S = 1.0
"""How often a waiting caller's position is looked at; it changes without an event of its own job."""

FIRST_NEWS_S = 15.0
"""How long `/stream` waits for the work to begin before it answers at all, so that an edit which fails before
is answered with its own HTTP status. Some clients give up on an answer without headers after minutes."""

SUFFIX = "/stream"

_Item = TypeVar("_Item")


async def status_stream(context: AppDependencies, request: Request, named: wire.RequestPath) -> Response:
    """The status objects of a request, one at once and one at each change, the completed one last."""
    job = await own_job(context, await account_of(context, request), named)
    base = queue_base_of(context, request)
    return _events(_statuses(context, job, base, logs=wants_logs(request)))


async def _statuses(context: AppDependencies, job: Job, base: str, *, logs: bool) -> AsyncIterator[bytes]:
    endpoint = endpoint_of(job)
    urls = wire.RequestUrls.under(base, endpoint.app, job.id)
    last: dict[str, Any] = {}

    def dump(job: Job, position: int, news: Sequence[JobEvent]) -> bytes:
        """The event for a state, or nothing when it says the same as the one before."""
        nonlocal last
        lines = wire.dump_logs(news, wire.notices_of(job) if job.state.final else ()) if logs else None
        body = wire.dump_status(job, urls, position, lines, endpoint)[1]
        before, last = last, {**body, "logs": None}
        return _event(body) if lines or last != before else b""

    known = await run_in_threadpool(context.service.events, job.id)
    job = await run_in_threadpool(context.service.get_any, job.id)
    yield dump(job, await run_in_threadpool(context.service.position, job), known)
    if job.state.final:
        return
    after = known[-1].id if known else 0
    silent_s = 0.0
    async for news in _with_pauses(context.watch.changes(job.id, after), POSITION_S):
        seen = await context.watch.snapshot(job.id)
        if news and wire.ends(news):
            seen = await run_in_threadpool(context.service.get_any, job.id), 0
        said = dump(*seen, news or ())
        silent_s = 0.0 if said else silent_s + POSITION_S
        if silent_s >= PING_S:
            said, silent_s = b": ping\n\n", 0.0
        if said:
            yield said


async def stream(context: AppDependencies, request: Request, path: str) -> Response:
    """An edit with its pictures as they get clearer; the last event is the output object.

    The caller's hanging up cancels the edit.
    """
    accepted = await accept_request(context, request, path)
    news = _with_pauses(context.watch.changes(accepted.job.id), PING_S)
    first = await _begun(news)
    job = await run_in_threadpool(context.service.get, accepted.account, accepted.job.id)
    if wire.failure_of(job) is not None:
        return await result_response(context, request, job)
    inline = job.delivery.inline
    response = _events(_pictures(context, job, first, news, files_base_of(context, request), inline=inline))
    response.background = BackgroundTask(cancel_quietly, context, accepted)
    return response


async def _begun(news: AsyncIterator[tuple[JobEvent, ...] | None]) -> list[JobEvent]:
    """What has happened by the first step, the end, or `FIRST_NEWS_S`, whichever is first."""
    found: list[JobEvent] = []
    until = asyncio.get_running_loop().time() + FIRST_NEWS_S
    async for batch in news:
        found += batch or ()
        worked = any(event.kind in ("step", "preview") for event in found)
        if worked or wire.ends(found) or asyncio.get_running_loop().time() >= until:
            break
    return found


async def _pictures(
    context: AppDependencies,
    job: Job,
    first: Sequence[JobEvent],
    news: AsyncIterator[tuple[JobEvent, ...] | None],
    base: str,
    *,
    inline: bool,
) -> AsyncIterator[bytes]:
    batch: Sequence[JobEvent] | None = first
    while True:
        if batch is None:
            yield b": ping\n\n"
        else:
            for body in await run_in_threadpool(_partials, context, batch, base, inline):
                yield _event(body)
            if wire.ends(batch):
                break
        batch = await anext(news, first)
        if batch is first:
            break
    job = await run_in_threadpool(context.service.get_any, job.id)
    failure = wire.failure_of(job)
    if failure is None:
        yield _event(await run_in_threadpool(dump_output, context, job, base))
    else:
        answer = answer_to_failure(failure, endpoint_of(job))
        yield _event({**answer.body, "error": answer.text, "error_type": answer.kind})


def _partials(context: AppDependencies, news: Sequence[JobEvent], base: str, inline: bool) -> list[dict[str, Any]]:
    """One event for each preview, one for the steps after the last of them."""
    found: list[dict[str, Any]] = []
    progress: dict[str, Any] = {}
    for event in news:
        if event.kind == "step":
            progress = {"step": event.data["step"], "steps": event.data["steps"]}
        elif event.kind == "preview":
            picture = _preview(context, str(event.data["blob"]), base, inline)
            found.append({"images": [picture] if picture else [], "partial": True, "progress": progress})
            progress = {}
    if progress:
        found.append({"images": [], "partial": True, "progress": progress})
    return found


def _preview(context: AppDependencies, key: str, base: str, inline: bool) -> dict[str, Any] | None:
    """A preview as a picture of the answer; None when it is gone already."""
    media_type = mimetypes.guess_type(key)[0] or "image/jpeg"
    try:
        blob = context.blobs.get(key)
    except UnknownFile:
        return None
    if inline:
        return {"url": images.data_uri(blob.data, media_type), "content_type": media_type}
    left_s = 600.0 if blob.expires_at is None else (blob.expires_at - datetime.now(UTC)).total_seconds()
    return {"url": context.blobs.link(key, ttl_s=left_s, base_url=base), "content_type": media_type}


async def _with_pauses(source: AsyncIterator[_Item], pause_s: float) -> AsyncIterator[_Item | None]:
    """The items of `source`, and None whenever none came for `pause_s`."""
    pending: asyncio.Future[_Item | None] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(_next(source))
            done, _ = await asyncio.wait((pending,), timeout=pause_s)
            if not done:
                yield None
                continue
            item, pending = pending.result(), None
            if item is None:
                return
            yield item
    finally:
        if pending is not None:
            pending.cancel()


async def _next(source: AsyncIterator[_Item]) -> _Item | None:
    return await anext(source, None)


def _event(body: object) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"


def _events(source: AsyncIterator[bytes]) -> StreamingResponse:
    headers = {"cache-control": "no-cache, no-transform", "x-accel-buffering": "no"}
    return StreamingResponse(source, media_type="text/event-stream", headers=headers)
