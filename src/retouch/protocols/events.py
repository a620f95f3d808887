"""A job's history as a stream: its events with pauses between them, and the frames of server-sent events.

What an event says to a caller is the face's matter.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence

import orjson
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from retouch.jobs.job import FINAL_STATES, JobEvent
from retouch.watch import Watch

KEEP_ALIVE_S = 10.0
"""Proxies close a connection that is silent for long; the vendors' clients skip comments."""


async def history(
    watch: Watch, job_id: str, *, pause_s: float = KEEP_ALIVE_S, after: int = 0
) -> AsyncGenerator[tuple[JobEvent, ...]]:
    """The job's events after the one with the id `after`, as they come, until the job has ended.

    An empty tuple whenever there was none for `pause_s`.
    """
    changes = aiter(watch.changes(job_id, after))
    pending: asyncio.Future[tuple[JobEvent, ...] | None] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(anext(changes, None))
            done, _ = await asyncio.wait((pending,), timeout=pause_s)
            if not done:
                # The same `anext` is waited for again: to cancel it would end the watch's generator.
                yield ()
                continue
            events, pending = pending.result(), None
            if events is None:
                return
            yield events
    finally:
        if pending is not None:
            pending.cancel()


def has_ended(events: Sequence[JobEvent]) -> bool:
    """Whether these events say that the job is over."""
    return any(event.kind == "state" and event.data.get("state") in FINAL_STATES for event in events)


def sse_data(body: object, event: str | None = None) -> bytes:
    """One server-sent event, with the blank line without which a client loses it."""
    name = b"" if event is None else b"event: " + event.encode() + b"\n"
    return name + b"data: " + orjson.dumps(body) + b"\n\n"


def sse_comment(text: str) -> bytes:
    return f": {text}\n\n".encode()


class EventStreamResponse(StreamingResponse):
    """Sends a stream of frames unbuffered. `on_close` is called once it is over, also when the caller left before."""

    def __init__(
        self,
        frames: AsyncIterator[bytes],
        headers: Mapping[str, str] | None = None,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        unbuffered = {"cache-control": "no-cache, no-transform", "x-accel-buffering": "no"}
        super().__init__(frames, media_type="text/event-stream", headers={**(headers or {}), **unbuffered})
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self._on_close is not None:
                self._on_close()
