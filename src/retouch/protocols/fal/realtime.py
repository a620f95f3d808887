"""fal's realtime socket: an input a message, an output a message, as long as the caller stays.

Messages are MessagePack maps, or JSON text. Each input becomes a job like any other; they are worked on one
after the other, and a caller who hangs up cancels the one that runs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgpack
import orjson
from starlette.concurrency import run_in_threadpool
from starlette.websockets import WebSocket

from retouch.accounts.keys import Account
from retouch.errors import RetouchError
from retouch.jobs.job import Job
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.fal.dump import dump_result, endpoint_of
from retouch.protocols.fal.errors import Answer, BadRequest, InvalidBody, Problem, answer_to, answer_to_failure
from retouch.protocols.fal.parse import endpoint_named, parse_json
from retouch.protocols.fal.routes import caller_of, files_origin_of, submit_input
from retouch.protocols.fal.schemas import Endpoint
from retouch.protocols.http import json_response
from retouch.protocols.outcome import failure_of, forgotten_on_delivery, output_urls
from retouch.protocols.submit import cancel_abandoned
from retouch.service import Submitted

SUFFIX = "/realtime"
MAX_BUFFERING = 60

_Input: TypeAlias = Mapping[str, Any] | RetouchError


@dataclass(slots=True)
class _Inbox:
    """Inputs that wait for their turn, at most `most` of them and `max_bytes` in all.

    When there are too many, the oldest goes and its sender is informed. One input is always taken, whatever its size.
    """

    most: int
    max_bytes: int
    waiting: deque[tuple[_Input, int]] = field(default_factory=deque)
    came: asyncio.Event = field(default_factory=asyncio.Event)
    closed: bool = False

    def put(self, message: _Input, size: int) -> bool:
        """Take a message of `size` bytes; whether an older one had to go."""
        self.waiting.append((message, size))
        dropped = False
        while len(self.waiting) > 1 and (
            len(self.waiting) > self.most or sum(size for _, size in self.waiting) > self.max_bytes
        ):
            self.waiting.popleft()
            dropped = True
        self.came.set()
        return dropped

    def close(self) -> None:
        self.closed = True
        self.waiting.clear()
        self.came.set()

    async def next(self) -> _Input | None:
        """The oldest input, or None when the caller is gone."""
        while not self.waiting and not self.closed:
            self.came.clear()
            await self.came.wait()
        return None if self.closed else self.waiting.popleft()[0]


async def handle(dependencies: AppDependencies, socket: WebSocket) -> None:
    """One connection, from the handshake to its end. A bad key or name is refused with its HTTP status."""
    try:
        path: str = socket.path_params["path"].rstrip("/")
        endpoint = endpoint_named(path.removesuffix(SUFFIX))
        account = await caller_of(dependencies, socket, endpoint)
        most = socket.query_params.get("max_buffering", str(MAX_BUFFERING))
        if not most.isdecimal() or len(most) > 9 or not 1 <= int(most) <= MAX_BUFFERING:
            raise BadRequest(f"max_buffering must be a whole number from 1 to {MAX_BUFFERING}, not '{most[:20]}'.")
        inbox = _Inbox(int(most), dependencies.max_body_bytes)
    except RetouchError as error:
        answer = answer_to(error)
        await socket.send_denial_response(json_response(answer.body, answer.status, answer.headers))
        return
    await socket.accept()
    reader = asyncio.create_task(_read(socket, inbox))
    try:
        while (submitted := await _submit_next(dependencies, socket, inbox, account, endpoint)) is not None:
            try:
                job = await _ended_unless_gone(dependencies, inbox, submitted.job.id)
            except RetouchError as error:  # an outage; a socket tells no id by which the image could be fetched later
                try:
                    await _send_error(socket, answer_to(error))
                finally:
                    await cancel_abandoned(dependencies, account, submitted)
                continue
            if job is None:
                await cancel_abandoned(dependencies, account, submitted)
                return
            await _send_outcome(dependencies, socket, job)
    finally:
        reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reader


async def _read(socket: WebSocket, inbox: _Inbox) -> None:
    """Take messages as they come, so that a caller who leaves is noticed while an edit runs."""
    while (message := await socket.receive())["type"] != "websocket.disconnect":
        data: bytes = message.get("bytes") or (message.get("text") or "").encode()
        parsed = await run_in_threadpool(_parsed, data, is_text=message.get("bytes") is None)
        if inbox.put(parsed, len(data)):
            # Both clients skip messages of this type; on the wire it says why.
            words = "An older input was dropped: max_buffering, or what a socket may hold, was reached."
            notice = {"type": "x-fal-message", "message": words}
            await socket.send_text(orjson.dumps(notice).decode())
    inbox.close()


def _parsed(data: bytes, *, is_text: bool) -> _Input:
    try:
        if is_text:
            return parse_json(data)
        found = msgpack.unpackb(data, strict_map_key=True)
    except RetouchError as error:
        return error
    except ValueError:
        return InvalidBody((Problem((), "The message is not MessagePack", "msgpack_invalid"),))
    # MessagePack knows more keys than JSON, in which the answer names them.
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        return InvalidBody((Problem((), "Input should be a valid object", "dict_type"),))
    return found


async def _submit_next(
    dependencies: AppDependencies, socket: WebSocket, inbox: _Inbox, account: Account, endpoint: Endpoint
) -> Submitted | None:
    """The job of the next input that makes one, what is wrong with those before sent back; None once the caller left.

    The input itself, with the images in it, is gone when this returns.
    """
    while (message := await inbox.next()) is not None:
        try:
            if isinstance(message, RetouchError):
                raise message
            return await run_in_threadpool(submit_input, dependencies, account, endpoint, socket, message)
        except RetouchError as error:
            await _send_error(socket, answer_to(error, endpoint))
    return None


async def _ended_unless_gone(dependencies: AppDependencies, inbox: _Inbox, job_id: str) -> Job | None:
    """The job when it has ended; None when the caller has left first."""
    ended = asyncio.ensure_future(dependencies.watch.wait(job_id))
    try:
        while not ended.done():
            # `came` is set by new inputs too, which wait; only `closed` says that the caller has left.
            if inbox.closed:
                return None
            inbox.came.clear()
            news = asyncio.ensure_future(inbox.came.wait())
            await asyncio.wait((ended, news), return_when=asyncio.FIRST_COMPLETED)
            news.cancel()
        return ended.result()
    finally:
        ended.cancel()


async def _send_outcome(dependencies: AppDependencies, socket: WebSocket, job: Job) -> None:
    failure = failure_of(job)
    if failure is not None:
        await _send_error(socket, answer_to_failure(failure, endpoint_of(job)))
        return
    try:
        urls = await run_in_threadpool(output_urls, dependencies, job, files_origin_of(dependencies, socket))
    except RetouchError as error:
        await _send_error(socket, answer_to(error))
        return
    await socket.send_bytes(msgpack.packb(dump_result(job, urls)))
    if forgotten_on_delivery(job):
        await run_in_threadpool(dependencies.service.forget_payload, job.id)


async def _send_error(socket: WebSocket, answer: Answer) -> None:
    body = {"type": "x-fal-error", "error": answer.kind, "reason": answer.text, "detail": answer.body["detail"]}
    await socket.send_text(orjson.dumps(body).decode())
