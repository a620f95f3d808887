"""From jobs to the wire: the answers to a submit, a status and a result call, logs and notices.

Does no I/O: links to files come in as arguments.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from retouch.edit import Notice
from retouch.jobs.job import Job, JobEvent, JobState
from retouch.protocols.fal.errors import answer_to_failure
from retouch.protocols.fal.schemas import ENDPOINTS, Endpoint, Kind
from retouch.protocols.inputs import UPSTREAM_OPTIONS
from retouch.protocols.outcome import dump_notices, failure_of, notices_in_wire_names

STATUS_WORDS: Mapping[JobState, str] = {
    JobState.QUEUED: "IN_QUEUE",
    JobState.RUNNING: "IN_PROGRESS",
    JobState.SUCCEEDED: "COMPLETED",
    JobState.FAILED: "COMPLETED",
    JobState.CANCELLED: "COMPLETED",
}
"""There are exactly three words: the clients raise on a fourth, or poll it for ever."""

REQUEST_ID_HEADER = "x-fal-request-id"
NOTICES_HEADER = "x-retouch-notices"
BILLABLE_UNITS_HEADER = "x-fal-billable-units"

NOTICES_OPTION = "notices"
"""Where `Delivery.options` keeps which of this protocol's own headers were not honoured."""

FIELDS_OPTION = "fields"
"""Where `Delivery.options` keeps which inputs the caller gave, as names with blanks between them."""

FILES_ORIGIN_OPTION = "files_base"
"""Where `Delivery.options` keeps the address the caller knew this server by, for the webhook's links."""


@dataclass(frozen=True, slots=True)
class RequestUrls:
    """The three absolute URLs of a request, without a trailing slash."""

    response: str
    status: str
    cancel: str

    @classmethod
    def under(cls, base: str, app: str, request_id: str) -> RequestUrls:
        """base: the queue's own address as the caller sees it, without a trailing slash."""
        response = f"{base}/{app}/requests/{request_id}"
        return cls(response, f"{response}/status", f"{response}/cancel")


def endpoint_of(job: Job) -> Endpoint:
    return ENDPOINTS[job.delivery.endpoint]


def dump_submitted(job: Job, urls: RequestUrls, position: int) -> dict[str, Any]:
    return {**_envelope(job, urls), "status": "IN_QUEUE", "logs": None, "metrics": {}, "queue_position": position}


def dump_status(
    job: Job,
    urls: RequestUrls,
    position: int,
    logs: Sequence[Mapping[str, Any]] | None,
    *,
    seconds_left: float | None = None,
) -> tuple[int, dict[str, Any]]:
    """HTTP status and body of a status call: 202 until the job has ended, then 200.

    logs: None when they were not asked for. seconds_left: as predicted; shown beside the vendor's own metrics.
    """
    entries = None if logs is None else list(logs)
    body: dict[str, Any] = {"status": STATUS_WORDS[job.state], **_envelope(job, urls), "logs": entries, "metrics": {}}
    if job.state is JobState.QUEUED:
        body["queue_position"] = position
    if not job.state.final:
        if seconds_left is not None:
            body["metrics"] = {"seconds_left": seconds_left}
        return 202, body
    body["metrics"] = {"inference_time": inference_s(job)}
    failure = failure_of(job)
    if failure is not None:
        answer = answer_to_failure(failure, endpoint_of(job))
        body |= {"error": answer.text, "error_type": answer.kind}
    return 200, body


def _envelope(job: Job, urls: RequestUrls) -> dict[str, Any]:
    return {
        "request_id": job.id,
        "response_url": urls.response,
        "status_url": urls.status,
        "cancel_url": urls.cancel,
    }


def inference_s(job: Job) -> float:
    """Seconds from the start of the work to its end; 0 for a job that never ran."""
    if job.output is not None and "inference" in job.output.timings:
        return round(job.output.timings["inference"], 3)
    if job.started_at is None or job.finished_at is None:
        return 0.0
    return round((job.finished_at - job.started_at).total_seconds(), 3)


def dump_logs(job: Job, events: Sequence[JobEvent], *, known_notices: bool = True) -> list[dict[str, Any]]:
    """Log lines: what the worker wrote and each step, between the notices.

    Those known at submit come first, once the edit runs, because the vendor's own snippets print the lines of a running
    edit only; those that the work has found come at its end. known_notices: whether to tell the first ones.
    """
    if not events:
        return []
    known = notices_at_submit(job)
    entries: list[dict[str, Any]] = []
    if known_notices and job.state is not JobState.QUEUED:
        entries += [_notice_entry(notice, events[0].created_at) for notice in known]
    for event in events:
        if event.kind == "log":
            message, level = str(event.data.get("message", "")), str(event.data.get("level", "INFO"))
            entries.append(_log_entry(level, message, event.created_at))
        elif event.kind == "step":
            message = f"Step {event.data.get('step')} of {event.data.get('steps')}"
            entries.append(_log_entry("INFO", message, event.created_at))
    if job.state.final:
        found = (notice for notice in notices_of(job) if notice not in known)
        entries += [_notice_entry(notice, events[-1].created_at) for notice in found]
    return entries


def _notice_entry(notice: Notice, at: datetime) -> dict[str, Any]:
    return _log_entry("WARN", f"{notice.parameter} {notice.action}: {notice.detail}", at)


def _log_entry(level: str, message: str, at: datetime) -> dict[str, Any]:
    return {"message": message, "level": level, "source": "USER", "timestamp": at.isoformat()}


def dump_result(job: Job, urls: Sequence[str]) -> dict[str, Any]:
    """The bare output object of a succeeded job, and its notices where there are any.

    urls: a link or data URI for each image, in order.
    """
    assert job.output is not None, "only a succeeded job has a result"
    output, endpoint = job.output, endpoint_of(job)
    images = [
        {
            "url": url,
            "content_type": image.media_type,
            "file_name": image.blob.rsplit("/", 1)[-1],
            "file_size": image.size_bytes,
            "width": image.width,
            "height": image.height,
        }
        for image, url in zip(output.images, urls, strict=True)
    ]
    # An image that was not checked: null where a check was wanted, false where none was, as the vendor has it.
    unchecked = None if job.request.enable_safety_checker else False
    members = {
        "images": [{key: image[key] for key in endpoint.image_keys} for image in images],
        "timings": {stage: round(seconds, 3) for stage, seconds in output.timings.items()},
        "seed": output.images[0].seed,
        "has_nsfw_concepts": [unchecked if image.unsafe is None else image.unsafe for image in output.images],
        "prompt": output.prompt,
    }
    result = {key: members[key] for key in endpoint.output}
    notices = dump_notices(notices_of(job))
    return {**result, "notices": notices} if notices else result


def dump_input(job: Job, links: Sequence[str]) -> dict[str, Any]:
    """The input of a request as its caller gave it: the same members, in this face's words.

    links: of its images, in order, in place of data URIs.
    """
    endpoint = endpoint_of(job)
    given = job.delivery.options.get(FIELDS_OPTION, "").split()
    body = {name: _input(job, endpoint, name, links) for name in given if name in endpoint.parameters}
    options = {UPSTREAM_OPTIONS: job.request.upstream_options} if UPSTREAM_OPTIONS in given else {}
    return body | options


def _input(job: Job, endpoint: Endpoint, name: str, links: Sequence[str]) -> Any:
    parameter, request = endpoint.parameters[name], job.request
    match parameter.kind:
        case Kind.LINKS:
            return list(links)
        case Kind.LINK:
            return links[0]
        case Kind.LORAS:
            return [{"path": lora.path, "scale": lora.scale} for lora in request.loras]
        case Kind.IMAGE_SIZE:
            size = request.size
            if size.words in parameter.choices:
                return size.words
            return {"width": size.width, "height": size.height}
    return job.delivery.inline if parameter.canonical == "inline" else getattr(request, parameter.canonical)


def dump_listed(job: Job) -> dict[str, Any]:
    """A request as a list of requests has it, without its payloads; what it has not come to yet is null."""
    ended = job.finished_at
    return {
        "request_id": job.id,
        "endpoint_id": job.delivery.endpoint,
        "sent_at": _moment(job.created_at),
        "started_at": _moment(job.started_at),
        "ended_at": _moment(ended),
        "status_code": status_code(job),
        "duration": None if ended is None else round((ended - job.created_at).total_seconds(), 3),
    }


def status_code(job: Job) -> int | None:
    """What a call for its result is answered with; None while there is none."""
    if not job.state.final:
        return None
    failure = failure_of(job)
    return 200 if failure is None else answer_to_failure(failure, endpoint_of(job)).status


def _moment(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def notices_at_submit(job: Job) -> tuple[Notice, ...]:
    """What was known when the job was accepted not to be used as written, under the caller's names."""
    own = [Notice(**notice) for notice in json.loads(job.delivery.options.get(NOTICES_OPTION, "[]"))]
    return notices_in_wire_names((*own, *job.notices), endpoint_of(job).wire_name)


def notices_of(job: Job) -> tuple[Notice, ...]:
    """Everything about the request that was not done as written, under the caller's names."""
    found: list[Notice] = []
    if job.output is not None:
        found += job.output.notices
        unchecked = job.request.enable_safety_checker and all(image.unsafe is None for image in job.output.images)
        if unchecked and all(notice.parameter != "enable_safety_checker" for notice in found):
            detail = "No safety checker is installed here: the images were not checked."
            found.append(Notice("enable_safety_checker", "ignored", detail))
    named = notices_in_wire_names(found, endpoint_of(job).wire_name)
    return tuple(dict.fromkeys((*notices_at_submit(job), *named)))


def notices_header(notices: Sequence[Notice]) -> str:
    """As JSON in ASCII, fit for a header."""
    return json.dumps(dump_notices(notices))


def billable_units(job: Job) -> str:
    """What a succeeded edit is billed for, in the unit of the price: megapixels of output."""
    assert job.output is not None, "only a succeeded job is billed"
    made = sum(image.width * image.height for image in job.output.images)
    pixels = made if job.usage is None else job.usage.pixels
    return f"{pixels / 1_000_000:.6f}".rstrip("0").rstrip(".")
