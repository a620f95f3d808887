"""The OpenAI face: `POST /images/edits` and its neighbours, for unmodified OpenAI SDKs.

Each call is parsed, submitted, waited for and dumped; a call that an SDK repeats joins the edit that it has begun. The
paths are in `face.py`, what a parameter means is in `parse.py`, what an error looks like in `errors.py`; nothing here
touches pixels or the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakValueDictionary

import orjson
import pybase64
import structlog
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from retouch.accounts.keys import Account
from retouch.catalog import Route
from retouch.errors import (
    DatabaseUnavailable,
    EditTimeout,
    InvalidRequest,
    RetouchError,
    StorageUnavailable,
    UnsupportedMode,
)
from retouch.jobs.job import MAX_IDEMPOTENCY_KEY_CHARACTERS, Idempotency, Job
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.events import EventStreamResponse
from retouch.protocols.http import (
    CLIENT_DISCONNECTED,
    TrackedResponse,
    account_of,
    body_chunks,
    ended_or_disconnected,
    json_response,
    origin_of,
)
from retouch.protocols.openai import dump
from retouch.protocols.openai.dry_run import estimate, sizes_of
from retouch.protocols.openai.dump import DeliveredImage
from retouch.protocols.openai.errors import row_of
from retouch.protocols.openai.form import GLANCE_BYTES, Body, decode_body
from retouch.protocols.openai.parse import EditCall, parse_call, resolve, route_of
from retouch.protocols.openai.streaming import EditStream
from retouch.protocols.outcome import forgotten_on_delivery, job_link, output_images, raise_for_failure
from retouch.protocols.submit import Submission, cancel_unattended, submit

ANSWER_WITHIN_S = 290.0
"""Node's fetch gives up on an answer whose headers take 300 s, whatever the SDK's timeout is."""

_YES = frozenset({"true", "1", "yes", "on", ""})

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 8.0
"""Both SDKs pause for half a second before the first retry, and twice as long before each further one."""

MARGIN_S = 3.0
"""Time for the next try to connect and to send its headers, beyond its pause."""

LONGEST_KEPT_S = 60.0
"""How long an edit without a caller is kept in all; further uploads of its account do not prolong that."""

log = structlog.get_logger(__name__)


# --- an edit


@dataclass(frozen=True, slots=True)
class ParsedEdit:
    """A call with its images, and where it goes. origin: this server as the caller sees it."""

    call: EditCall
    body: Body
    route: Route
    origin: str

    def submission(self, dependencies: AppDependencies, idempotency: Idempotency | None = None) -> Submission:
        return Submission(
            self.call.request,
            [image.source for image in self.body.images],
            self.call.delivery(),
            key_of_link=lambda link: dependencies.blobs.key_of_link(link, base_url=self.origin),
            mask=self.body.mask.source if self.body.mask else None,
            idempotency=idempotency,
        )


@dataclass(frozen=True, slots=True)
class AcceptedEdit:
    """A call and the job that answers it. It is held for as long as the job runs, so it holds no image.

    durable: it came with an idempotency key, so it is not stopped when its caller hangs up. replayed: that key led to
    a job that was there already.
    """

    call: EditCall
    job: Job
    route: Route
    origin: str
    durable: bool
    replayed: bool


class Edits:
    """`POST /images/edits`, and the refusal of its two neighbours."""

    def __init__(self, dependencies: AppDependencies) -> None:
        self._dependencies = dependencies
        self._retries = Retries(self._cancel)

    async def edit(self, request: Request) -> Response:
        """Edit the given images by instruction; answers `ImagesResponse`, or events when `stream` is true."""
        account = await account_of(self._dependencies.authenticator, request)
        query = request.query_params
        if query.get("dryRun", query.get("dry_run", "no")).strip().lower() in _YES:
            parsed = await self._parse(request)
            submission = parsed.submission(self._dependencies)
            body = await run_in_threadpool(estimate, self._dependencies, parsed.call, parsed.route, submission)
            return json_response(body)
        accepted = await self._accept(request, account)
        if accepted.call.stream:
            return await self._stream(accepted)
        return await self._answer(request, accepted)

    async def _parse(self, request: Request) -> ParsedEdit:
        """Read the body. From then on errors name parameters as the caller did."""
        chunks = body_chunks(request, self._dependencies.max_body_bytes, glance_bytes=GLANCE_BYTES)
        body = await decode_body(request.headers.get("content-type", ""), chunks)
        call = parse_call(body, size_policy=request.headers.get("x-param-policy"))
        request.state.call = call
        route = route_of(self._dependencies.catalog, call.model)
        return ParsedEdit(resolve(call, route), body, route, origin_of(self._dependencies.public_url, request))

    async def _accept(self, request: Request, account: Account) -> AcceptedEdit:
        """Submit the call, or find the job that it repeats; the caller counts as waiting from then on.

        The images are in storage when this returns, and nowhere else: the call waits without them.
        """
        key = request.headers.get("idempotency-key")
        if key is not None and not 0 < len(key) <= MAX_IDEMPOTENCY_KEY_CHARACTERS:
            raise InvalidRequest(f"The Idempotency-Key must have 1 to {MAX_IDEMPOTENCY_KEY_CHARACTERS} characters.")
        count = request.headers.get("x-stainless-retry-count", "")  # of the official SDKs; other clients count nothing
        attempt = int(count) if count.isdecimal() and len(count) < 4 else None
        with self._retries.uploading(account, attempt):
            parsed = await self._parse(request)
            repeatable = attempt is not None and key is None and not parsed.call.stream
            digest = await run_in_threadpool(parsed.body.digest) if key or repeatable else ""  # of many megabytes
            idempotency = Idempotency(key, digest) if key else None
            submission = parsed.submission(self._dependencies, idempotency)
            replayed = False

            async def submit_new() -> Job:
                nonlocal replayed
                submitted = await run_in_threadpool(submit, self._dependencies, account, submission)
                replayed = submitted.replayed
                return submitted.job

            if repeatable:
                assert attempt is not None, "only counted tries are repeatable"
                job = await self._retries.join_or_submit(account, digest, attempt, submit_new)
            else:
                job = await submit_new()
                if key is None:  # a durable edit goes on whether its caller waits or not
                    self._retries.wait_once(account, job)
        user = parsed.call.user
        hashed_user = None if user is None else hashlib.sha256(user.encode()).hexdigest()[:16]
        log.info("edit accepted", job=job.id, account=account.id, model=job.request.model, user=hashed_user)
        return AcceptedEdit(parsed.call, job, parsed.route, parsed.origin, key is not None, replayed)

    async def _answer(self, request: Request, accepted: AcceptedEdit) -> Response:
        """Wait for the job and answer in one piece."""
        call, job_id = accepted.call, accepted.job.id
        try:
            job = await ended_or_disconnected(self._dependencies.watch, request, job_id, timeout_s=ANSWER_WITHIN_S)
            if job is None:
                self._leave(accepted, answered=False)
                return Response(status_code=CLIENT_DISCONNECTED)
            content = await run_in_threadpool(self._render, accepted, job)
        except asyncio.CancelledError:
            self._leave(accepted, answered=False)
            raise
        except (DatabaseUnavailable, StorageUnavailable) as error:  # the next try can have the answer
            self._leave(accepted, answered=False, retry_after_s=row_of(error.failure).retry_after_s or 0)
            raise
        except TimeoutError:
            self._leave(accepted, answered=True)  # with the job's id: the edit goes on
            raise EditTimeout(
                f"The edit takes longer than {ANSWER_WITHIN_S:g} s and still runs as job {job_id}. Repeat the call "
                "with an Idempotency-Key, or with 'stream', to wait longer."
            ) from None
        except Exception:
            self._leave(accepted, answered=True)  # with the error
            raise

        async def sent(delivered: bool) -> None:
            self._leave(accepted, answered=delivered)
            if delivered and not accepted.durable and forgotten_on_delivery(job):
                await run_in_threadpool(self._dependencies.service.forget_payload, job.id)

        headers = dump.answer_headers(call, job, replayed=accepted.replayed)
        return TrackedResponse(Response(content, headers=headers, media_type="application/json"), sent)

    async def _stream(self, accepted: AcceptedEdit) -> Response:
        """Answer with events while the job runs."""
        call, job, size = accepted.call, accepted.job, None
        try:
            if call.partial_images:
                with contextlib.suppress(RetouchError):  # the job will fail by the same
                    found = await run_in_threadpool(sizes_of, self._dependencies.blobs, job.request, accepted.route)
                    size = found.output if found else None
            seconds_left = await run_in_threadpool(self._dependencies.service.seconds_left, job)
        except BaseException:
            self._leave(accepted, answered=False)  # without the job's id: no other call can fetch what it makes
            raise
        headers = dump.answer_headers(call, job, replayed=accepted.replayed)
        if seconds_left is not None:
            headers["x-estimated-seconds"] = f"{seconds_left:.1f}"
        stream = EditStream(
            self._dependencies, call, job, deliver=lambda ended: self._deliver(accepted, ended), size=size
        )
        return EventStreamResponse(
            stream.frames(), headers, on_close=lambda: self._leave(accepted, answered=stream.ended)
        )

    def _render(self, accepted: AcceptedEdit, job: Job) -> bytes:
        """The body of the answer; on a thread, because it may have many megabytes."""
        return orjson.dumps(dump.dump_response(accepted.call, job, self._deliver(accepted, job)))

    def _deliver(self, accepted: AcceptedEdit, job: Job) -> Sequence[DeliveredImage]:
        """The images of an ended job in the form the call wants; raises what it failed with. Blocking."""
        raise_for_failure(job)
        call, dependencies = accepted.call, self._dependencies
        by_value = call.stream or call.response_format != "url"
        by_url = call.response_format != "b64_json"
        delivered: list[DeliveredImage] = []
        for image in output_images(job):
            base64 = url = None
            if by_value or call.inline:
                base64 = pybase64.b64encode_as_string(dependencies.blobs.get(image.blob).data)
            if by_url and call.inline:
                url = f"data:{image.media_type};base64,{base64}"
            elif by_url:
                url = job_link(dependencies, job, image.blob, accepted.origin)
            delivered.append(DeliveredImage(base64 if by_value else None, url))
        return delivered

    def _leave(self, accepted: AcceptedEdit, *, answered: bool, retry_after_s: float = 0.0) -> None:
        if not accepted.durable:
            self._retries.leave(accepted.job.id, answered=answered, retry_after_s=retry_after_s)

    async def _cancel(self, account: Account, job_id: str) -> None:
        if await cancel_unattended(self._dependencies, account, job_id):
            log.info("edit abandoned", job=job_id, account=account.id)

    async def refuse_generation(self, request: Request) -> Response:
        """Text to image is not offered; names what is."""
        await account_of(self._dependencies.authenticator, request)
        raise UnsupportedMode(
            "The models here edit images; they make none from text alone. Supported mode: edit, by "
            "POST /v1/images/edits with an 'image'.",
            field="model",
        )

    async def refuse_variation(self, request: Request) -> Response:
        """OpenAI retired this endpoint."""
        await account_of(self._dependencies.authenticator, request)
        raise HTTPException(404)


# --- callers who come back


def pause_before_retry_s(attempt: int) -> float:
    """The longest pause of the SDKs after the try with the number `attempt`, counted from 0."""
    return min(FIRST_PAUSE_S * 2.0 ** min(attempt, 10), LONGEST_PAUSE_S)


@dataclass(slots=True)
class _Edit:
    """digest: of the call's body, None where a retry cannot be recognised. attempt: number of its latest try.

    left_at: when its last caller hung up, in the loop's time. pause_s: how long the next try was told to wait.
    """

    account: Account
    job: Job
    digest: str | None
    attempt: int = 0
    waiting: int = 0
    left_at: float = 0.0
    pause_s: float = 0.0
    stop: asyncio.TimerHandle | None = None


class Retries:
    """The edits of one face that are waited for, so that a repeated call joins one and an abandoned one is stopped.

    The official SDKs hang up when they lose patience, pause, and send the same body again: such an edit is kept for as
    long as the next try may take to come. The memory is of one server process; an `Idempotency-Key` is the durable way
    to the same end. Use it from the event loop only. cancel: stops the job of an edit that is given up.
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
        lock = self._submitting.setdefault(key, asyncio.Lock())  # held weakly: it goes with the last call that waits
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

    def leave(self, job_id: str, *, answered: bool, retry_after_s: float = 0.0) -> None:
        """A caller got its answer, or hung up; when it was the last one, the edit is stopped, if need be later.

        retry_after_s: a pause that the answer asks for, which the SDKs make in place of their own.
        """
        edit = self._edits[job_id]
        edit.waiting -= 1
        if edit.waiting:
            return
        edit.left_at, edit.pause_s = asyncio.get_running_loop().time(), retry_after_s
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
        pause_s = max(pause_before_retry_s(edit.attempt), edit.pause_s)
        edit.stop = loop.call_later(min(pause_s + MARGIN_S, left_s), self._stop, edit)

    def _stop(self, edit: _Edit) -> None:
        self._forget(edit)
        task = asyncio.ensure_future(self._cancel(edit.account, edit.job.id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _forget(self, edit: _Edit) -> None:
        self._keep(edit)
        del self._edits[edit.job.id]
        # Unless a second first try of the same body has taken its place there.
        if edit.digest is not None and self._by_digest.get((edit.account.id, edit.digest)) is edit:
            del self._by_digest[edit.account.id, edit.digest]


# --- the models


class Models:
    """`GET /models` and `GET /models/{id}`."""

    def __init__(self, dependencies: AppDependencies) -> None:
        self._dependencies = dependencies

    async def list(self, request: Request) -> Response:
        await account_of(self._dependencies.authenticator, request)
        catalog = self._dependencies.catalog
        own = [route for route in catalog.routes if "/" not in route.model.id]
        return json_response(dump.dump_models(own, [catalog.targets(route)[0] for route in own]))

    async def retrieve(self, request: Request, model_id: str) -> Response:
        await account_of(self._dependencies.authenticator, request)
        catalog = self._dependencies.catalog
        route = route_of(catalog, model_id.strip("/"))
        targets = catalog.targets(route)
        return json_response({**dump.dump_model(route, targets[0]), "targets": dump.dump_targets(targets)})
