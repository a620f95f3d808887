"""`/stream`: looks at the image while it appears, and its output at the end, each handed out once.

A read waits for news, because one of the vendor's clients asks without a pause. What was handed out is known to this
process only, so after a restart a stream may repeat its last chunk. It changes no job.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool

from retouch.errors import UnknownJob
from retouch.jobs.job import Job, JobEvent, JobState
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.events import has_ended, history
from retouch.protocols.runpod import dump

HOLD_S = 3.0
"""How long a read without news is held. Python's client gives up after ten seconds."""

LEAST_S = 1.0
"""How long a read is held when there is news of a job that goes on, so that a caller asks once a second at most."""

PAUSE_S = 0.25
REMEMBERED = 10_000
"""Streams whose place is known; the one that was read longest ago is forgotten."""

PARTIAL_LINK_S = 600.0
"""Life of a link to an unfinished image; the file lives no longer."""


@dataclass(slots=True)
class Place:
    """What one job's stream has handed out. after: id of the last event; ended: the last chunk is out as well."""

    after: int = 0
    ended: bool = False


class Streams:
    """The places of all streams that this process serves."""

    def __init__(self) -> None:
        self._places: OrderedDict[tuple[str, int], Place] = OrderedDict()

    def place_of(self, job: Job) -> Place:
        key = job.id, job.retries
        place = self._places.setdefault(key, Place())
        self._places.move_to_end(key)
        while len(self._places) > REMEMBERED:
            self._places.popitem(last=False)
        return place


async def read_stream(
    dependencies: AppDependencies,
    job: Job,
    place: Place,
    *,
    hold_s: float,
    origin: str,
    deliver: Callable[[Job], dict[str, Any] | None],
) -> dict[str, Any]:
    """The stream object: what is new since the last read. Raises UnknownJob after the end of a cancelled job's stream.

    The vendor's Python client knows no other end of it. deliver: the output of an ended job, if it has one; blocking.
    """
    events: list[JobEvent] = []
    if not job.state.final:
        events = await _news(dependencies, job, place, hold_s)
        job = await run_in_threadpool(dependencies.service.get_any, job.id)
    chunks: list[dict[str, Any]] = []
    if not job.state.final:
        for event in events:
            if event.kind == "preview":
                link = dependencies.blobs.link(str(event.data["blob"]), ttl_s=PARTIAL_LINK_S, base_url=origin)
                chunks.append({"output": dump.dump_partial(link, int(str(event.data["step"])), job.steps)})
    elif not place.ended:
        place.ended = True  # at once, so that of two reads at the same time one gets it
        try:
            output = await run_in_threadpool(deliver, job)
        except BaseException:
            place.ended = False
            raise
        chunks = [] if output is None else [{"output": output}]
    elif job.state is JobState.CANCELLED:
        raise UnknownJob("The job was cancelled; its stream is over.")
    return {**dump.dump_state(job), "stream": chunks}


async def _news(dependencies: AppDependencies, job: Job, place: Place, hold_s: float) -> list[JobEvent]:
    """The events since the last read; returns when the job has ended, or after a while."""
    clock = asyncio.get_running_loop().time
    began = clock()
    found: list[JobEvent] = []
    partial = False
    async with contextlib.aclosing(history(dependencies.watch, job.id, pause_s=PAUSE_S, after=place.after)) as batches:
        async for batch in batches:
            found += batch
            if batch:
                place.after = batch[-1].id
            partial = partial or any(event.kind == "preview" for event in batch)
            held_s = clock() - began
            if has_ended(batch) or held_s >= hold_s or (partial and held_s >= LEAST_S):
                break
    return found
