"""What a fal webhook says and how it is signed. It is sent elsewhere, and again until it is acknowledged."""

from __future__ import annotations

import hashlib
from datetime import datetime

import orjson

from retouch.errors import UnknownFile
from retouch.jobs.job import Job
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.face import WebhookMessage
from retouch.protocols.fal.dump import FILES_ORIGIN_OPTION, dump_result, endpoint_of
from retouch.protocols.fal.errors import answer_to_failure
from retouch.protocols.outcome import failure_of, output_urls


def message(dependencies: AppDependencies, job: Job, now: datetime) -> WebhookMessage:
    """The message about an ended job; the signature names the moment, so each attempt makes its own."""
    content: dict[str, object] = {"request_id": job.id, "gateway_request_id": job.id}
    failure = failure_of(job)
    if failure is not None:
        answer = answer_to_failure(failure, endpoint_of(job))
        error = f"Invalid status code: {answer.status}"
        content |= {"status": "ERROR", "error": error, "payload": answer.body}
    else:
        try:
            urls = output_urls(dependencies, job, job.delivery.options[FILES_ORIGIN_OPTION])
            content |= {"status": "OK", "payload": dump_result(job, urls)}
        except UnknownFile as gone:
            content |= {"status": "OK", "payload": None, "payload_error": gone.message}
    body = orjson.dumps(content)
    timestamp = str(int(now.timestamp()))
    signed = "\n".join((job.id, job.account_id, timestamp, hashlib.sha256(body).hexdigest()))
    headers = {
        "Content-Type": "application/json",
        "X-Fal-Webhook-Request-Id": job.id,
        "X-Fal-Webhook-User-Id": job.account_id,
        "X-Fal-Webhook-Timestamp": timestamp,
        "X-Fal-Webhook-Signature": dependencies.signer.sign(signed.encode()).hex(),
    }
    return WebhookMessage(body, headers)
