"""From a request body to a job. A bad envelope refuses the call; a bad input makes a job that has failed already.

Blocking: routes call it on a thread. It waits for no edit.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from retouch.accounts.keys import Account
from retouch.edit import Delivery, EditRequest
from retouch.errors import InvalidRequest
from retouch.jobs.job import PRIORITY_LOW, PRIORITY_NORMAL, Idempotency, Job
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.http import origin_of, read_body, set_request_id
from retouch.protocols.outcome import dump_notices
from retouch.protocols.runpod import dump
from retouch.protocols.runpod.endpoints import Endpoint
from retouch.protocols.runpod.parse import Envelope, ParsedInput, parse_envelope, parse_input
from retouch.protocols.submit import Submission, check_webhook_address, submit

MAX_RUN_BYTES = 10_000_000
MAX_RUNSYNC_BYTES = 20_000_000
"""The vendor's limits of a body."""

REFUSAL_KEPT_S = 1800.0
"""How long a job that could not be run can be looked at: the vendor's time for results."""

_MAX_IDEMPOTENCY_KEY = 255


@dataclass(frozen=True, slots=True)
class Call:
    """What a submit said. sync: it came to `runsync`."""

    account: Account
    endpoint: Endpoint
    body: bytes
    origin: str
    sync: bool
    idempotency_key: str | None = None


async def submit_request(
    dependencies: AppDependencies, request: Request, account: Account, endpoint: Endpoint, *, sync: bool
) -> Job:
    """The job of a submit; raises InvalidRequest and its kinds, QueueFull, IdempotencyKeyReused and Unavailable."""
    most = min(MAX_RUNSYNC_BYTES if sync else MAX_RUN_BYTES, dependencies.max_body_bytes)
    body = await read_body(request, most)
    key = request.headers.get("idempotency-key") or None
    call = Call(account, endpoint, body, origin_of(dependencies.public_url, request), sync, key)
    job = await run_in_threadpool(_submit_body, dependencies, call)
    set_request_id(request, job.id)
    return job


def _submit_body(dependencies: AppDependencies, call: Call) -> Job:
    envelope = parse_envelope(call.body)
    delivery = _delivery(call, envelope)
    delivery.check()
    if envelope.webhook is not None:
        check_webhook_address(dependencies, envelope.webhook)
    try:
        parsed = parse_input(call.endpoint, envelope.input)
        delivery = _completed(delivery, envelope, parsed)
        return _submit_input(dependencies, call, envelope, parsed, delivery)
    except InvalidRequest as error:
        nothing = EditRequest(model=call.endpoint.model, prompt="", images=())
        refused = replace(delivery, retention_s=REFUSAL_KEPT_S)
        return dependencies.service.submit_failed(call.account, nothing, refused, error.failure)


def _submit_input(
    dependencies: AppDependencies, call: Call, envelope: Envelope, parsed: ParsedInput, delivery: Delivery
) -> Job:
    policy, blobs = envelope.policy, dependencies.blobs
    submission = Submission(
        request=parsed.request,
        images=parsed.images,
        delivery=delivery,
        key_of_link=lambda link: blobs.key_of_link(link, base_url=call.origin),
        priority=PRIORITY_LOW if policy.low_priority else PRIORITY_NORMAL,
        run_timeout_s=policy.execution_timeout_s,
        life_s=policy.ttl_s,
        bucket=envelope.bucket,
        idempotency=_idempotency(call),
    )
    return submit(dependencies, call.account, submission).job


def _delivery(call: Call, envelope: Envelope) -> Delivery:
    options = {dump.INPUT_OPTION: dump.remembered_input(envelope.input), dump.ORIGIN_OPTION: call.origin}
    if call.sync:
        options[dump.SYNC_OPTION] = "1"
    return Delivery(dump.PROTOCOL, call.endpoint.id, webhook_url=envelope.webhook, options=options)


def _completed(delivery: Delivery, envelope: Envelope, parsed: ParsedInput) -> Delivery:
    """With what only a readable input tells."""
    options = {
        **delivery.options,
        dump.NAMES_OPTION: orjson.dumps({**parsed.wire_names, "bucket": "s3Config"}).decode(),
    }
    if parsed.base64:
        options[dump.BASE64_OPTION] = "1"
    if notices := (*envelope.notices, *parsed.notices):
        options[dump.NOTICES_OPTION] = orjson.dumps(dump_notices(notices)).decode()
    return replace(delivery, options=options)


def _idempotency(call: Call) -> Idempotency | None:
    key = call.idempotency_key
    if key is None:
        return None
    if len(key) > _MAX_IDEMPOTENCY_KEY:
        raise InvalidRequest(f"Idempotency-Key has {len(key)} characters; at most {_MAX_IDEMPOTENCY_KEY} are allowed.")
    return Idempotency(key, hashlib.sha256(call.endpoint.id.encode() + b"\n" + call.body).hexdigest())
