"""Jobs as their owner sees them: found by the id on the wire, answered with links, files and the cost."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson

from retouch.accounts.keys import Account
from retouch.catalog import HOSTED
from retouch.edit import Usage
from retouch.errors import UnknownFile, UnknownJob
from retouch.jobs.job import Job, JobState
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.face import WebhookMessage
from retouch.protocols.outcome import job_link, output_images
from retouch.protocols.runpod import dump
from retouch.protocols.runpod.endpoints import Endpoint


def own_job(dependencies: AppDependencies, account: Account, endpoint: Endpoint, text: str) -> Job:
    """The caller's job at this endpoint; raises UnknownJob, also once the life it was given is over. Blocking."""
    job = dependencies.service.get(account, dump.job_id_of(text))
    if not is_at(job, endpoint) or (job.end_by is not None and job.end_by <= datetime.now(UTC)):
        raise UnknownJob(f"There is no job '{text[:60]}' at the endpoint '{endpoint.id}'.")
    return job


def is_at(job: Job, endpoint: Endpoint) -> bool:
    return job.delivery.protocol == dump.PROTOCOL and job.delivery.endpoint == endpoint.id


def job_object(
    dependencies: AppDependencies,
    job: Job,
    origin: str,
    *,
    wait_s: float | None = None,
    seconds_left: float | None = None,
) -> dict[str, Any]:
    """The job object with its output. Blocking: an answer in base64 is read from storage."""
    output = output_object(dependencies, job, origin)
    return dump.dump_job(job, output, wait_s=wait_s, seconds_left=seconds_left, now=datetime.now(UTC))


def output_object(dependencies: AppDependencies, job: Job, origin: str) -> dict[str, Any] | None:
    """None for a job without an image, and for one whose images are gone."""
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
    return dump.dump_output(job, links, _cost(dependencies, job, job.usage), file)


def _cost(dependencies: AppDependencies, job: Job, usage: Usage) -> float:
    """Dollars, as the ledger has them: by our own row, or what the providers of a hosted edit have charged."""
    if job.queue == HOSTED.name:
        return usage.price_microusd / 1_000_000
    return dependencies.catalog.route(job.request.model).model.price.dollars(usage.images, usage.pixels)


def webhook_message(dependencies: AppDependencies, job: Job, now: datetime) -> WebhookMessage:  # noqa: ARG001
    """The job object with the request's `input` and `webhook`; nothing of `s3Config`."""
    origin = job.delivery.options[dump.ORIGIN_OPTION]
    body = job_object(dependencies, job, origin)
    body["input"] = orjson.loads(job.delivery.options[dump.INPUT_OPTION])
    body["webhook"] = job.delivery.webhook_url
    return WebhookMessage(orjson.dumps(body), {"Content-Type": "application/json"})
