"""The OpenAI face: `POST /images/edits` and its neighbours, for unmodified OpenAI SDKs.

Each call is parsed, handed to the service, waited for and dumped. What a parameter means is in `wire.py`,
what an error looks like in `errors.py`; nothing here touches pixels or the database.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import orjson
import structlog
from fastapi import FastAPI
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from retouch.accounts.keys import Account
from retouch.catalog import Route
from retouch.errors import EditTimeout, JobFinished, UnknownJob, UnsupportedMode
from retouch.jobs.job import Idempotency, Job
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.openai import answers
from retouch.protocols.openai.body import read_body
from retouch.protocols.openai.exchange import (
    authenticated,
    base_url_of,
    disconnected,
    hashed,
    header_list,
    idempotency_key,
    is_dry_run,
    json_response,
    retry_count,
)
from retouch.protocols.openai.form import Body
from retouch.protocols.openai.inflight import InFlight
from retouch.protocols.openai.pictures import Pictures
from retouch.protocols.openai.refusals import add_refusals, nobody, raise_unless_succeeded
from retouch.protocols.openai.streaming import EditStream, EventStreamResponse
from retouch.protocols.openai.transport import OpenAITransport
from retouch.protocols.openai.wire import PROVIDER, EditCall, Settled, parse_call, route_of, settle

ANSWER_WITHIN_S = 290.0
"""Node's fetch gives up on an answer whose headers take 300 s, whatever the SDK's timeout is."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """A call that can run here, and who made it. base_url: this server as the caller sees it."""

    account: Account
    call: EditCall
    settled: Settled
    base_url: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """A call and the job that answers it.

    digest: of the call, where the SDK may repeat it. durable: it came with an idempotency key, so it is not
    stopped when its caller hangs up. replayed: that key led to a job that was there already.
    """

    asked: Asked
    job: Job
    digest: str | None
    durable: bool
    replayed: bool


def create_face(context: AppDependencies) -> FastAPI:
    """The face as an application of its own, to be mounted at `/v1` and `/openai/v1`."""
    app = FastAPI(title="Retouch, OpenAI protocol", redirect_slashes=False)
    app.add_middleware(OpenAITransport)
    edits, models = Edits(context), Models(context)
    for path, endpoint, method in (
        ("/images/edits", edits.edit, "POST"),
        ("/images/generations", edits.refuse_generation, "POST"),
        ("/images/variations", edits.refuse_variation, "POST"),
        ("/models", models.list, "GET"),
        ("/models/{model_id:path}", models.retrieve, "GET"),
    ):
        app.add_api_route(path, endpoint, methods=[method], response_model=None)
        if "{" not in path:
            app.add_api_route(f"{path}/", endpoint, methods=[method], response_model=None, include_in_schema=False)
    add_refusals(app)
    return app


class Models:
    """`GET /models` and `GET /models/{id}`."""

    def __init__(self, context: AppDependencies) -> None:
        self._context = context

    async def list(self, request: Request) -> Response:
        await authenticated(self._context, request)
        shown = [route for route in self._context.catalog.routes if "/" not in route.model.id]
        return json_response(answers.dump_models(shown))

    async def retrieve(self, request: Request, model_id: str) -> Response:
        await authenticated(self._context, request)
        return json_response(answers.dump_model(route_of(self._context.catalog, model_id.strip("/"))))


class Edits:
    """`POST /images/edits`, and the kind refusal of its two neighbours."""

    def __init__(self, context: AppDependencies) -> None:
        self._context = context
        self._pictures = Pictures(context)
        self._in_flight = InFlight(self._cancel)

    async def edit(self, request: Request) -> Response:
        """Edit the given pictures by instruction; answers `ImagesResponse`, or events when `stream` is true."""
        context = self._context
        account = await authenticated(context, request)
        body = await read_body(request, max_bytes=context.max_body_bytes)
        call = parse_call(body, size_policy=request.headers.get("x-param-policy"))
        request.state.call = call
        route = route_of(context.catalog, call.model)
        settled = settle(call, route)
        asked = Asked(account, call, settled, base_url_of(context, request))
        if is_dry_run(request):
            sizes = await run_in_threadpool(self._pictures.sizes_of, call, settled, route, asked.base_url)
            return json_response(answers.dump_estimate(call, settled, route, sizes))
        accepted = await self._accept(request, body, asked)
        if call.stream:
            return await self._stream(accepted, route)
        return await self._answer(request, accepted)

    async def refuse_generation(self, request: Request) -> Response:
        """Text to image is not offered; says what is."""
        await authenticated(self._context, request)
        raise UnsupportedMode(
            "The models here edit pictures; they make none from text alone. Supported mode: edit, by "
            "POST /v1/images/edits with an 'image'.",
            field="model",
        )

    async def refuse_variation(self, request: Request) -> Response:
        """OpenAI retired this endpoint."""
        await authenticated(self._context, request)
        raise HTTPException(404)

    async def _accept(self, request: Request, body: Body, asked: Asked) -> Accepted:
        """Find the running job that a repeated call may join, or submit a new one."""
        account, call = asked.account, asked.call
        key, retries = idempotency_key(request), retry_count(request)
        repeatable = retries is not None and not call.stream
        digest = await run_in_threadpool(body.digest) if key or repeatable else None
        durable, replayed = key is not None, False
        running = None
        if digest and repeatable and not durable and retries != "0":
            running = self._in_flight.find(account, digest)
        if running is not None:
            job = await run_in_threadpool(self._context.service.get, account, running)
        else:
            idempotency = Idempotency(f"openai:images/edits:{key}", digest) if key and digest else None
            job, replayed = await run_in_threadpool(
                self._pictures.submit, account, call, asked.settled, asked.base_url, idempotency
            )
        log.info("edit accepted", job=job.id, account=account.id, model=job.request.model, user=hashed(call.user))
        return Accepted(asked, job, digest if repeatable else None, durable, replayed)

    def _arrive(self, accepted: Accepted) -> None:
        if not accepted.durable:
            self._in_flight.arrive(accepted.asked.account, accepted.job.id, accepted.digest)

    def _leave(self, accepted: Accepted, *, answered: bool) -> None:
        if not accepted.durable:
            self._in_flight.leave(accepted.job.id, answered=answered)

    async def _answer(self, request: Request, accepted: Accepted) -> Response:
        """Wait for the job and answer in one piece."""
        self._arrive(accepted)
        answered = True
        try:
            final = await self._wait(request, accepted.job.id)
            answered = final is not None
        except asyncio.CancelledError:
            answered = False
            raise
        finally:
            self._leave(accepted, answered=answered)
        if final is None:
            return nobody()
        raise_unless_succeeded(final)
        content = await run_in_threadpool(self._rendered, accepted, final)
        forget = None
        if accepted.asked.call.inline and not accepted.durable:
            forget = BackgroundTask(run_in_threadpool, self._context.service.forget_payload, final.id)
        headers = headers_of(accepted, final)
        return Response(content, media_type="application/json", headers=headers, background=forget)

    async def _wait(self, request: Request, job_id: str) -> Job | None:
        """The job when it is final, or None when the caller hung up; raises EditTimeout."""
        waiting = asyncio.ensure_future(self._context.watch.wait(job_id, timeout_s=ANSWER_WITHIN_S))
        gone = asyncio.ensure_future(disconnected(request))
        try:
            await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
            return waiting.result() if waiting.done() else None
        except TimeoutError:
            raise EditTimeout(
                f"The edit takes longer than {ANSWER_WITHIN_S:g} s and still runs as job {job_id}. Repeat the call "
                "with an Idempotency-Key, or with 'stream', to wait longer."
            ) from None
        finally:
            waiting.cancel()
            gone.cancel()

    def _rendered(self, accepted: Accepted, final: Job) -> bytes:
        asked = accepted.asked
        shown = self._pictures.shown(asked.call, final, asked.base_url)
        return orjson.dumps(answers.dump_response(asked.call, asked.settled, final, shown))

    async def _stream(self, accepted: Accepted, route: Route) -> Response:
        """Answer with events while the job runs."""
        asked, call, job, size = accepted.asked, accepted.asked.call, accepted.job, None
        if call.partial_images:
            size = await run_in_threadpool(self._pictures.output_size, job, route)

        def shown(final: Job) -> Sequence[answers.Shown]:
            raise_unless_succeeded(final)
            return self._pictures.shown(call, final, asked.base_url)

        stream = EditStream(self._context, call, asked.settled, job, shown, size)
        self._arrive(accepted)
        return EventStreamResponse(
            stream, headers_of(accepted, job), lambda: self._leave(accepted, answered=stream.ended)
        )

    async def _cancel(self, account: Account, job_id: str) -> None:
        """Stop a job nobody waits for."""
        with contextlib.suppress(JobFinished, UnknownJob):
            await run_in_threadpool(self._context.service.cancel, account, job_id)
            log.info("edit abandoned", job=job_id, account=account.id)


def headers_of(accepted: Accepted, job: Job) -> dict[str, str]:
    headers = {"x-provider": PROVIDER, "x-model": answers.executed_model(job)}
    notices = answers.all_notices(accepted.asked.call, accepted.asked.settled, job.output)
    ignored = answers.ignored_parameters(notices)
    if ignored:
        headers["x-ignored-parameters"] = header_list(ignored)
    if accepted.replayed:
        headers["idempotent-replayed"] = "true"
    return headers
