"""The OpenAI face: `POST /images/edits` and its neighbours, for unmodified OpenAI SDKs.

Each call is parsed, submitted, waited for and dumped. What a parameter means is in `parse.py`, what an error looks
like in `errors.py`; nothing here touches pixels or the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import orjson
import pybase64
import structlog
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from retouch import images, sizes
from retouch.accounts.keys import Account
from retouch.catalog import Route
from retouch.catalog.normalised import ImageSizes, Normalised
from retouch.catalog.normaliser import normalise
from retouch.catalog.profiles import ServedTarget
from retouch.edit import EditRequest, Notice
from retouch.errors import EditTimeout, InvalidRequest, JobFinished, RetouchError, UnknownJob, UnsupportedMode
from retouch.jobs.job import Idempotency, Job
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.error_handlers import UnexpectedError, add_error_handlers
from retouch.protocols.events import EventStreamResponse
from retouch.protocols.http import (
    CLIENT_DISCONNECTED,
    DrainRefusedUploads,
    TrackedResponse,
    account_of,
    body_chunks,
    ended_or_disconnected,
    json_response,
    origin_of,
)
from retouch.protocols.openai import dump
from retouch.protocols.openai.dump import DeliveredImage
from retouch.protocols.openai.errors import dump_error
from retouch.protocols.openai.form import GLANCE_BYTES, Body, decode_body
from retouch.protocols.openai.parse import EditCall, parse_call, resolve, route_of
from retouch.protocols.openai.retries import Retries
from retouch.protocols.openai.streaming import EditStream
from retouch.protocols.outcome import (
    MethodNotAllowed,
    failure_in_wire_names,
    forgotten_on_delivery,
    job_link,
    output_images,
    raise_for_failure,
)
from retouch.protocols.submit import Submission, stored_images, submit
from retouch.sizes import Sizes

ANSWER_WITHIN_S = 290.0
"""Node's fetch gives up on an answer whose headers take 300 s, whatever the SDK's timeout is."""

MAX_IDEMPOTENCY_KEY_CHARACTERS = 255

_YES = frozenset({"true", "1", "yes", "on", ""})

log = structlog.get_logger(__name__)


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


def create_face(dependencies: AppDependencies) -> FastAPI:
    """The face as an application of its own."""
    app = FastAPI(title="Retouch, OpenAI protocol", redirect_slashes=False)
    app.add_middleware(DrainRefusedUploads)
    edits, models = Edits(dependencies), Models(dependencies)
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
    add_error_handlers(app, answer_error)
    return app


def answer_error(request: Request, error: RetouchError) -> Response:
    """With the caller's own name of the parameter once the call was parsed."""
    call: EditCall | None = getattr(request.state, "call", None)
    failure = failure_in_wire_names(error.failure, call.wire_name) if call else error.failure
    answer = dump_error(failure, transient=isinstance(error, UnexpectedError))
    allow = {"allow": error.allowed} if isinstance(error, MethodNotAllowed) else {}
    return json_response(answer.body, answer.status, {**answer.headers, **allow})


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


class Edits:
    """`POST /images/edits`, and the refusal of its two neighbours."""

    def __init__(self, dependencies: AppDependencies) -> None:
        self._dependencies = dependencies
        self._retries = Retries(self._cancel)

    async def edit(self, request: Request) -> Response:
        """Edit the given images by instruction; answers `ImagesResponse`, or events when `stream` is true."""
        account = await account_of(self._dependencies.authenticator, request)
        if is_dry_run(request):
            return json_response(await run_in_threadpool(self._estimate, await self._parse(request)))
        accepted = await self._accept(request, account)
        if accepted.call.stream:
            return await self._stream(accepted)
        return await self._answer(request, accepted)

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
        key, attempt = idempotency_key(request), attempt_of(request)
        with self._retries.uploading(account, attempt):
            parsed = await self._parse(request)
            repeatable = attempt is not None and key is None and not parsed.call.stream
            digest = await run_in_threadpool(parsed.body.digest) if key or repeatable else ""
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
                if key is None:
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
        except TimeoutError:
            self._leave(accepted, answered=True)
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
        if call.partial_images:
            with contextlib.suppress(RetouchError):  # the job will fail by the same
                found = await run_in_threadpool(self._sizes_of, job.request, accepted.route)
                size = found.output if found else None
        stream = EditStream(
            self._dependencies, call, job, deliver=lambda ended: self._deliver(accepted, ended), size=size
        )
        headers = dump.answer_headers(call, job, replayed=accepted.replayed)
        seconds_left = await run_in_threadpool(self._dependencies.service.seconds_left, job)
        if seconds_left is not None:
            headers["x-estimated-seconds"] = f"{seconds_left:.1f}"
        return EventStreamResponse(
            stream.frames(),
            headers,
            on_close=lambda: self._leave(accepted, answered=stream.ended),
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

    def _estimate(self, parsed: ParsedEdit) -> dict[str, object]:
        """What the call would come to, checked with its images. Nothing is kept. Blocking."""
        route = parsed.route
        completed, notices = route.complete(parsed.call.request, image_count=len(parsed.body.images))
        submission = replace(parsed.submission(self._dependencies), request=completed)
        with stored_images(self._dependencies.blobs, submission) as stored:
            found: dict[str, tuple[int, int]] = {}
            notices += self._check_images(stored.request, route, found)
            known = self._sizes_of(stored.request, route)
            asked = replace(parsed.call.request, images=stored.request.images, mask=stored.request.mask)
            target, made = self._hosted_target(route, asked, found)
        size = known or sizes.resolve(completed.size, route.checkpoint.sizes, None, strict=completed.strict)
        if made is not None:
            size = Sizes(size.canvas, made.emulation.size or size.output)
        notices += size.notices if made is None else made.notices
        return dump.dump_estimate(
            parsed.call, completed, route, size, notices, size_known=known is not None, target=target
        )

    def _hosted_target(
        self, route: Route, request: EditRequest, known: ImageSizes
    ) -> tuple[ServedTarget | None, Normalised | None]:
        """The first target that takes the edit, and what it would be asked; neither where that is our own queue."""
        refused: InvalidRequest | None = None
        for target in self._dependencies.catalog.targets(route):
            if target.profile.local:
                return None, None
            try:
                return target, normalise(request, target.profile, known)
            except InvalidRequest as error:
                refused = refused or error
        assert refused is not None, "a model has a target"
        raise refused

    def _check_images(
        self, request: EditRequest, route: Route, found: dict[str, tuple[int, int]]
    ) -> tuple[Notice, ...]:
        """What the worker will find in the headers of the images; those behind links are seen when they are fetched.

        Their sizes are added to `found`, by field.
        """
        notices: list[Notice] = []
        for image in request.inputs:
            if image.blob is not None:
                data = self._dependencies.blobs.get(image.blob).data
                header = images.probe(data, field=image.field)
                found[image.field] = (header.width, header.height)
                if image is not request.mask:
                    notices += route.model.check_image(header.width, header.height, len(data), field=image.field)
        if "mask" in found and "images[0]" in found:
            sizes.check_mask(found["mask"], found["images[0]"], field="mask")
        return tuple(notices)

    def _sizes_of(self, request: EditRequest, route: Route) -> Sizes | None:
        """The sizes an edit will have; None where a link hides the image whose shape is followed. Blocking."""
        profile = route.checkpoint.sizes
        if request.size.width is not None or request.size.aspect_ratio is not None:
            return sizes.resolve(request.size, profile, None, strict=request.strict)
        image = request.images[request.reference_index]
        if image.blob is None:
            return None
        header = images.probe(self._dependencies.blobs.get(image.blob).data, field=image.field)
        return sizes.resolve(request.size, profile, (header.width, header.height), strict=request.strict)

    def _leave(self, accepted: AcceptedEdit, *, answered: bool) -> None:
        if not accepted.durable:
            self._retries.leave(accepted.job.id, answered=answered)

    async def _cancel(self, account: Account, job_id: str) -> None:
        """Stop a job that no caller waits for."""
        with contextlib.suppress(JobFinished, UnknownJob):
            await run_in_threadpool(self._dependencies.service.cancel, account, job_id)
            log.info("edit abandoned", job=job_id, account=account.id)


def is_dry_run(request: Request) -> bool:
    """Whether only an estimate is wanted (`?dryRun=true`)."""
    for name in ("dryRun", "dry_run"):
        if name in request.query_params:
            return request.query_params[name].strip().lower() in _YES
    return False


def idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not 0 < len(key) <= MAX_IDEMPOTENCY_KEY_CHARACTERS:
        raise InvalidRequest(f"The Idempotency-Key must have 1 to {MAX_IDEMPOTENCY_KEY_CHARACTERS} characters.")
    return key


def attempt_of(request: Request) -> int | None:
    """The number of this try of the official SDKs, from 0; None for any other client."""
    count = request.headers.get("x-stainless-retry-count", "")
    return int(count) if count.isdecimal() and len(count) < 4 else None
