"""A call with `stream: true`: server-sent events while the job runs, its images at the end.

Comments carry the waiting (position, steps) and keep proxies awake; events carry images only. It reads
the job's history and stores nothing.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pybase64
from starlette.concurrency import run_in_threadpool

from retouch import images
from retouch.edit import OutputFormat
from retouch.errors import RetouchError
from retouch.jobs.job import Job, JobEvent, JobState
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.events import KEEP_ALIVE_S, history, sse_comment, sse_data
from retouch.protocols.openai.dump import DeliveredImage, dump_completed, dump_partial
from retouch.protocols.openai.errors import dump_error
from retouch.protocols.openai.parse import EditCall
from retouch.protocols.outcome import failure_in_wire_names

PARTIAL_QUALITY = 80
"""Encoder quality of partial images, which are blurred anyway; they have no other use for bytes."""


@dataclass(slots=True)
class PartialImages:
    """Which of a job's previews are sent: `wanted` of each image, spread evenly over its `steps`."""

    wanted: int
    steps: int
    sent: dict[int, int] = field(default_factory=dict)  # by image

    def next_index(self, image: int, step: int) -> int | None:
        """The index under which the preview of `image` after `step` steps is sent; None when it is not due."""
        index = self.sent.get(image, 0)
        if index >= self.wanted or step < round((index + 1) * self.steps / (self.wanted + 1)):
            return None
        self.sent[image] = index + 1
        return index


@dataclass(slots=True)
class EditStream:
    """The stream of one call.

    deliver: hands over the images of a succeeded job, or raises what the job failed with; blocking. size: of the final
    images, where it is known before the end; previews are enlarged to it. ended: the caller got every image.
    """

    dependencies: AppDependencies
    call: EditCall
    job: Job
    deliver: Callable[[Job], Sequence[DeliveredImage]]
    size: tuple[int, int] | None
    ended: bool = False

    async def frames(self) -> AsyncGenerator[bytes]:
        """Server-sent events, from the first comment to the last image or an error event."""
        partials = PartialImages(self.call.partial_images, self.job.request.steps or 1)
        try:
            yield sse_comment(await self._waiting())
            async for events in history(self.dependencies.watch, self.job.id, pause_s=KEEP_ALIVE_S):
                if not events:
                    yield sse_comment(await self._waiting())
                for event in events:
                    if event.kind == "step":
                        left = event.data.get("seconds_left")
                        about = "" if left is None else f" seconds_left={left}"
                        yield sse_comment(f"step {event.data.get('step')}/{event.data.get('steps')}{about}")
                    elif event.kind == "preview" and partials.wanted:
                        image = _number(event, "image")
                        index = partials.next_index(image, _number(event, "step"))
                        if index is not None:
                            yield await run_in_threadpool(self._partial, event, image, index)
            final = await run_in_threadpool(self.dependencies.service.get_any, self.job.id)
            for frame in await run_in_threadpool(self._completed, final):
                yield frame
            self.ended = True
        except RetouchError as error:  # of the job, or an outage that keeps it from its caller
            answer = dump_error(failure_in_wire_names(error.failure, self.call.wire_name))
            yield _frame({"type": "error", **answer.body})

    async def _waiting(self) -> str:
        """What the caller waits for, in a few words."""
        service = self.dependencies.service
        job = await run_in_threadpool(service.get_any, self.job.id)
        left = await run_in_threadpool(service.seconds_left, job)
        about = "" if left is None else f" seconds_left={left:.1f}"
        if job.state is JobState.QUEUED:
            return f"queued position={await run_in_threadpool(service.position, job)}{about}"
        return f"{job.state.value} step {job.step}/{job.steps}{about}"

    def _partial(self, event: JobEvent, image: int, index: int) -> bytes:
        """A stored preview, enlarged and encoded as the final image will be."""
        pixels = images.decode(self.dependencies.blobs.get(str(event.data["blob"])).data)
        size = self.size or (pixels.shape[1], pixels.shape[0])
        request = self.job.request
        quality = 100 if request.output_format is OutputFormat.PNG else PARTIAL_QUALITY
        data = images.encode(images.resize(pixels, size), request.output_format, quality)
        b64_json = pybase64.b64encode_as_string(data)
        now_s = int(time.time())
        return _frame(
            dump_partial(self.call, request, b64_json=b64_json, index=index, size=size, now_s=now_s, image=image)
        )

    def _completed(self, job: Job) -> list[bytes]:
        delivered = self.deliver(job)
        return [_frame(dump_completed(self.call, job, *image)) for image in enumerate(delivered)]


def _frame(event: dict[str, Any]) -> bytes:
    return sse_data(event, event["type"])


def _number(event: JobEvent, name: str) -> int:
    value = event.data.get(name, 0)
    return value if isinstance(value, int) else 0
