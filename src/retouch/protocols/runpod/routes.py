"""The RunPod face: jobs at an endpoint, submitted, looked at, waited for and ended.

A bad envelope refuses the call; a bad input makes a job that has failed already, as at the vendor. The paths are in
`face.py`, what a body means in `parse.py`; nothing here touches pixels or the database.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from retouch.accounts.keys import Account
from retouch.catalog import HOSTED
from retouch.edit import Delivery, EditRequest
from retouch.errors import InvalidRequest, JobFinished, UnknownFile, UnknownJob
from retouch.jobs.job import MAX_IDEMPOTENCY_KEY_CHARACTERS, PRIORITY_LOW, PRIORITY_NORMAL, Idempotency, Job, JobState
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.http import (
    CLIENT_DISCONNECTED,
    account_of,
    ended_or_disconnected,
    json_response,
    origin_of,
    read_body,
    set_request_id,
)
from retouch.protocols.outcome import dump_notices, job_link, output_images
from retouch.protocols.runpod import dump
from retouch.protocols.runpod.parse import Endpoint, endpoint_named, parse_envelope, parse_input, parse_wait
from retouch.protocols.runpod.streaming import HOLD_S, Streams, read_stream
from retouch.protocols.submit import Submission, check_webhook_address, submit

MAX_RUN_BYTES = 10_000_000
MAX_RUNSYNC_BYTES = 20_000_000
"""The vendor's limits of a body."""

MAX_EMPTY_BODY_BYTES = 65_536
"""Of operations that need no body: clients send none, or `{}`."""

REFUSAL_KEPT_S = 1800.0
"""How long a job that could not be run can be looked at: the vendor's time for results."""

CANCEL_HELD_S = 2.0
"""How long a cancel waits for the device to stop; the vendor's clients give up after three seconds."""

LISTED_REQUESTS = 100


# --- submitting


async def run(dependencies: AppDependencies, request: Request) -> Response:
    account, endpoint = await _caller(dependencies, request)
    job = await _submit(dependencies, request, account, endpoint, sync=False)
    return json_response(dump.dump_state(job))


async def runsync(dependencies: AppDependencies, request: Request) -> Response:
    account, endpoint = await _caller(dependencies, request)
    wait_s = parse_wait(request.query_params.get("wait"))
    job = await _submit(dependencies, request, account, endpoint, sync=True)
    return await _held(dependencies, request, job, wait_s)


@dataclass(frozen=True, slots=True)
class Call:
    """What a submit said. sync: it came to `runsync`."""

    account: Account
    endpoint: Endpoint
    body: bytes
    origin: str
    sync: bool
    idempotency_key: str | None


async def _submit(
    dependencies: AppDependencies, request: Request, account: Account, endpoint: Endpoint, *, sync: bool
) -> Job:
    """The job of a submit; raises InvalidRequest and its kinds, QueueFull, IdempotencyKeyReused and Unavailable."""
    body = await read_body(request, min(MAX_RUNSYNC_BYTES if sync else MAX_RUN_BYTES, dependencies.max_body_bytes))
    key = request.headers.get("idempotency-key") or None
    call = Call(account, endpoint, body, origin_of(dependencies.public_url, request), sync, key)
    job = await run_in_threadpool(_submit_call, dependencies, call)
    set_request_id(request, job.id)
    return job


def _submit_call(dependencies: AppDependencies, call: Call) -> Job:
    """Blocking: it stores the images."""
    account, endpoint, blobs = call.account, call.endpoint, dependencies.blobs
    envelope = parse_envelope(call.body)
    options = {dump.INPUT_OPTION: dump.remembered_input(envelope.input), dump.ORIGIN_OPTION: call.origin}
    if call.sync:
        options[dump.SYNC_OPTION] = "1"
    delivery = Delivery(dump.PROTOCOL, endpoint.id, webhook_url=envelope.webhook, options=options)
    delivery.check()
    if envelope.webhook is not None:
        check_webhook_address(dependencies, envelope.webhook)
    try:
        parsed = parse_input(endpoint, envelope.input)
        options = {**options, dump.NAMES_OPTION: orjson.dumps({**parsed.wire_names, "bucket": "s3Config"}).decode()}
        if parsed.base64:
            options[dump.BASE64_OPTION] = "1"
        if notices := (*envelope.notices, *parsed.notices):
            options[dump.NOTICES_OPTION] = orjson.dumps(dump_notices(notices)).decode()
        delivery = replace(delivery, options=options)
        idempotency = None
        if (key := call.idempotency_key) is not None:
            if len(key) > (most := MAX_IDEMPOTENCY_KEY_CHARACTERS):
                raise InvalidRequest(f"Idempotency-Key has {len(key)} characters; at most {most} are allowed.")
            idempotency = Idempotency(key, hashlib.sha256(endpoint.id.encode() + b"\n" + call.body).hexdigest())
        submission = Submission(
            request=parsed.request,
            images=parsed.images,
            delivery=delivery,
            key_of_link=lambda link: blobs.key_of_link(link, base_url=call.origin),
            priority=PRIORITY_LOW if envelope.policy.low_priority else PRIORITY_NORMAL,
            run_timeout_s=envelope.policy.execution_timeout_s,
            life_s=envelope.policy.ttl_s,
            bucket=envelope.bucket,
            idempotency=idempotency,
        )
        return submit(dependencies, account, submission).job
    except InvalidRequest as error:
        # With what was told of the input until then: the error names its fields as the caller did.
        refused = replace(delivery, retention_s=REFUSAL_KEPT_S)
        nothing = EditRequest(model=endpoint.model, prompt="", images=())
        return dependencies.service.submit_failed(account, nothing, refused, error.failure)


# --- one job


async def status(dependencies: AppDependencies, request: Request) -> Response:
    _, job = await _own_job(dependencies, request)
    return await _job_response(dependencies, request, job)


async def status_sync(dependencies: AppDependencies, request: Request) -> Response:
    wait_s = parse_wait(request.query_params.get("wait"))
    _, job = await _own_job(dependencies, request)
    return await _held(dependencies, request, job, wait_s)


async def stream(streams: Streams, dependencies: AppDependencies, request: Request) -> Response:
    text = request.query_params.get("wait")
    _, job = await _own_job(dependencies, request)
    hold_s = HOLD_S if text is None else parse_wait(text)
    origin = origin_of(dependencies.public_url, request)
    deliver = partial(output_object, dependencies, origin=origin)
    place = streams.place_of(job)
    return json_response(await read_stream(dependencies, job, place, hold_s=hold_s, origin=origin, deliver=deliver))


async def cancel(dependencies: AppDependencies, request: Request) -> Response:
    """Waits a moment for a running edit to stop. A job that has ended stays as it is."""
    account, job = await _own_job(dependencies, request)
    try:
        job = await run_in_threadpool(dependencies.service.cancel, account, job.id)
        if not job.state.final:
            job = await dependencies.watch.wait(job.id, timeout_s=CANCEL_HELD_S)
    except JobFinished:
        job = await run_in_threadpool(dependencies.service.get, account, job.id)
    except TimeoutError:
        # The device is inside a long step; it stops at its end.
        return json_response({"id": dump.wire_id(job), "status": "CANCELLED"})
    return json_response(dump.dump_state(job))


async def retry(dependencies: AppDependencies, request: Request) -> Response:
    account, job = await _own_job(dependencies, request)
    return json_response(dump.dump_state(await run_in_threadpool(dependencies.service.retry, account, job.id)))


async def _own_job(dependencies: AppDependencies, request: Request) -> tuple[Account, Job]:
    """The caller, and the job that the path names, if it is theirs; the body, which says nothing, has been read.

    Raises UnknownJob, also once the life that the job was given is over.
    """
    account, endpoint = await _caller(dependencies, request)
    await read_body(request, MAX_EMPTY_BODY_BYTES)
    text: str = request.path_params["job"]
    job = await run_in_threadpool(dependencies.service.get, account, dump.job_id_of(text))
    if not _is_at(job, endpoint) or (job.end_by is not None and job.end_by <= datetime.now(UTC)):
        raise UnknownJob(f"There is no job '{text[:60]}' at the endpoint '{endpoint.id}'.")
    set_request_id(request, request.headers.get("x-request-id", job.id))
    return account, job


def _is_at(job: Job, endpoint: Endpoint) -> bool:
    return job.delivery.protocol == dump.PROTOCOL and job.delivery.endpoint == endpoint.id


async def _held(dependencies: AppDependencies, request: Request, job: Job, wait_s: float) -> Response:
    """The job object once the job has ended or the wait is over. A caller who hangs up leaves the job running."""
    if not job.state.final:
        try:
            ended = await ended_or_disconnected(dependencies.watch, request, job.id, timeout_s=wait_s)
        except TimeoutError:
            ended = await run_in_threadpool(dependencies.service.get_any, job.id)
        if ended is None:
            return Response(status_code=CLIENT_DISCONNECTED)
        job = ended
    return await _job_response(dependencies, request, job)


async def _job_response(dependencies: AppDependencies, request: Request, job: Job) -> Response:
    origin = origin_of(dependencies.public_url, request)
    seconds_left = wait_s = None
    if not job.state.final:
        job, _, seconds_left, wait_s = await dependencies.watch.snapshot(job.id)
    output_of = partial(output_object, dependencies, job, origin)
    # A thread costs more than everything else that a polled status does; only a file in base64 needs one.
    output = await run_in_threadpool(output_of) if dump.BASE64_OPTION in job.delivery.options else output_of()
    now = datetime.now(UTC)
    return json_response(dump.dump_job(job, output, wait_s=wait_s, seconds_left=seconds_left, now=now))


def output_object(dependencies: AppDependencies, job: Job, origin: str) -> dict[str, Any] | None:
    """The output of a job: links, what it cost in dollars, and the file where base64 was wanted, which blocks.

    None for a job without an image, and for one whose images are gone.
    """
    if job.state is not JobState.SUCCEEDED:
        return None
    try:
        images = output_images(job)
        wanted = dump.BASE64_OPTION in job.delivery.options
        file = dependencies.blobs.get(images[0].blob).data if wanted else None
    except UnknownFile:
        return None
    links = [image.delivered_url or job_link(dependencies, job, image.blob, origin) for image in images]
    assert job.usage is not None, "a succeeded job has its usage"
    if job.queue == HOSTED.name:
        cost = job.usage.price_microusd / 1_000_000  # what the providers have charged
    else:
        price = dependencies.catalog.route(job.request.model).model.price
        cost = price.dollars(job.usage.images, job.usage.pixels)
    return dump.dump_output(job, links, cost, file)


# --- an endpoint


async def purge_queue(dependencies: AppDependencies, request: Request) -> Response:
    account, endpoint = await _caller(dependencies, request)
    await read_body(request, MAX_EMPTY_BODY_BYTES)
    removed = await run_in_threadpool(dependencies.service.cancel_waiting, account, dump.PROTOCOL, endpoint.id)
    return json_response({"removed": removed, "status": "completed"})


async def health(dependencies: AppDependencies, request: Request) -> Response:
    account, endpoint = await _caller(dependencies, request)
    queue = dependencies.catalog.route(endpoint.model).queue
    load = await run_in_threadpool(dependencies.service.queue_load, account, queue)
    return json_response(dump.dump_health(load))


async def requests(dependencies: AppDependencies, request: Request) -> Response:
    """The newest jobs, newest first, without their outputs. The vendor documents no shape."""
    account, endpoint = await _caller(dependencies, request)
    jobs = await run_in_threadpool(dependencies.service.recent, account, LISTED_REQUESTS)
    return json_response({"requests": [dump.dump_job(job) for job in jobs if _is_at(job, endpoint)]})


async def metrics(dependencies: AppDependencies, request: Request) -> Response:
    _, endpoint = await _caller(dependencies, request)
    queue = dependencies.catalog.route(endpoint.model).queue
    statistics = await run_in_threadpool(dependencies.service.statistics)
    ready = [each for each in statistics.workers if each.state == "ready" and queue in each.queues]
    return json_response({"readyWorkers": [dump.worker_id(each.name) for each in ready]})


async def _caller(dependencies: AppDependencies, request: Request) -> tuple[Account, Endpoint]:
    """Who calls which endpoint; raises InvalidKey, then UnknownModel."""
    account = await account_of(dependencies.authenticator, request)
    return account, endpoint_named(request.path_params["endpoint"])
