"""A call with `stream: true`: server-sent events while the job runs, its pictures at the end.

Comments carry the waiting (position, steps) and keep proxies awake; events carry pictures only. It reads
the job's history and stores nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pybase64
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from retouch import images
from retouch.edit import OutputFormat
from retouch.errors import RetouchError
from retouch.jobs.job import Job, JobEvent, JobState
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.openai import answers
from retouch.protocols.openai.answers import Shown
from retouch.protocols.openai.errors import dump_error
from retouch.protocols.openai.wire import EditCall, Settled, in_wire_names

COMMENT_EVERY_S = 10.0
"""Proxies close a connection that is silent for long; OpenAI's clients skip comments."""


@dataclass(slots=True)
class Partials:
    """Which of a job's previews are sent: `wanted` of each picture, spread evenly over its steps."""

    wanted: int
    sent: dict[object, int] = field(default_factory=dict)

    def next_index(self, picture: object, step: int, steps: int) -> int | None:
        """The index the preview of `picture` at `step` of `steps` is sent under; None when it is not due."""
        index = self.sent.get(picture, 0)
        if index >= self.wanted or step < round((index + 1) * steps / (self.wanted + 1)):
            return None
        self.sent[picture] = index + 1
        return index


@dataclass(slots=True)
class EditStream:
    """The stream of one call.

    shown: hands over the pictures of a succeeded job; blocking. size: of the final picture, where it is
    known before the end; previews are enlarged to it. ended: the caller got everything there is.
    """

    context: AppDependencies
    call: EditCall
    settled: Settled
    job: Job
    shown: Callable[[Job], Sequence[Shown]]
    size: tuple[int, int] | None
    ended: bool = False

    async def frames(self) -> AsyncGenerator[bytes]:
        """Server-sent events, from the first comment to the last picture or an error event."""
        partials = Partials(self.call.partial_images)
        step, steps = 0, 1
        yield answers.comment(await self._waiting())
        try:
            async for events in self._history():
                if not events:
                    yield answers.comment(await self._waiting())
                for event in events:
                    if event.kind == "step":
                        step, steps = _whole(event, "step"), max(_whole(event, "steps"), 1)
                        yield answers.comment(f"step {step}/{steps}")
                    elif event.kind == "preview" and partials.wanted:
                        picture = event.data.get("image")
                        index = partials.next_index(picture, step, steps)
                        if index is not None:
                            yield await run_in_threadpool(self._partial, event, index)
            final = await run_in_threadpool(self.context.service.get_any, self.job.id)
            for completed in await run_in_threadpool(self._completed, final):
                yield completed
        except RetouchError as error:
            failure, param = in_wire_names(error.failure, self.call)
            yield answers.error_frame(dump_error(failure, param))
        self.ended = True

    async def _history(self) -> AsyncGenerator[tuple[JobEvent, ...]]:
        """The job's events as they come; an empty tuple after each stretch of silence."""
        changes = aiter(self.context.watch.changes(self.job.id, 0))
        pending: asyncio.Future[tuple[JobEvent, ...]] = asyncio.ensure_future(anext(changes))
        try:
            while True:
                done, _ = await asyncio.wait({pending}, timeout=COMMENT_EVERY_S)
                if not done:
                    yield ()
                    continue
                try:
                    events = pending.result()
                except StopAsyncIteration:
                    return
                yield events
                pending = asyncio.ensure_future(anext(changes))
        finally:
            pending.cancel()

    async def _waiting(self) -> str:
        """What the caller waits for, in a few words."""
        service = self.context.service
        job = await run_in_threadpool(service.get_any, self.job.id)
        if job.state is JobState.QUEUED:
            return f"queued position={await run_in_threadpool(service.position, job)}"
        return f"{job.state.value} step {job.step}/{job.steps}"

    def _partial(self, event: JobEvent, index: int) -> bytes:
        """A stored preview, enlarged and encoded as the final picture will be."""
        pixels = images.decode(self.context.blobs.get(str(event.data["blob"])).data)
        size = self.size or (pixels.shape[1], pixels.shape[0])
        request = self.settled.completed
        data = images.encode(
            images.resize(pixels, size), request.output_format, _partial_quality(request.output_format)
        )
        return answers.frame(
            answers.dump_partial(
                self.settled,
                b64_json=pybase64.b64encode_as_string(data),
                index=index,
                size=size,
                now_s=int(time.time()),
                image_index=_whole(event, "image") if request.num_images > 1 and "image" in event.data else None,
            )
        )

    def _completed(self, job: Job) -> list[bytes]:
        shown = self.shown(job)
        return [
            answers.frame(answers.dump_completed(self.call, self.settled, job, position, picture))
            for position, picture in enumerate(shown)
        ]


class EventStreamResponse(StreamingResponse):
    """Sends a stream's frames. `left` is called once it is over, also when the caller left before it began."""

    def __init__(self, stream: EditStream, headers: Mapping[str, str], left: Callable[[], None]) -> None:
        unbuffered = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(stream.frames(), media_type="text/event-stream", headers={**headers, **unbuffered})
        self._left = left

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._left()


def _partial_quality(output_format: OutputFormat) -> int:
    """A preview is blurred anyway; no need to spend bytes on it."""
    return 100 if output_format is OutputFormat.PNG else 80


def _whole(event: JobEvent, name: str) -> int:
    value = event.data.get(name, 0)
    return value if isinstance(value, int) else 0
