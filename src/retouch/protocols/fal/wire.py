"""fal's JSON shapes: parse a submitted body and a path; dump submit, status and result answers.

Checks the shape of a body against the table in `schemas.py`, all problems at once. Does no I/O: pictures
stay the text the caller wrote (`Asked.image_texts`), links to files come in as arguments.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import orjson

from retouch import sizes
from retouch.edit import Acceleration, Delivery, EditRequest, Notice, OutputFormat, OutputImage, SizeRequest
from retouch.errors import Failure
from retouch.jobs.job import FINAL_STATES, Job, JobEvent, JobState
from retouch.protocols.fal.errors import InvalidBody, Problem, answer_to_failure
from retouch.protocols.fal.schemas import ENDPOINTS, Endpoint
from retouch.protocols.fal.terms import Terms

PROTOCOL = "fal"

STATUS_WORDS: Mapping[JobState, str] = {
    JobState.QUEUED: "IN_QUEUE",
    JobState.RUNNING: "IN_PROGRESS",
    JobState.SUCCEEDED: "COMPLETED",
    JobState.FAILED: "COMPLETED",
    JobState.CANCELLED: "COMPLETED",
}
"""There are exactly three words: the clients raise on a fourth, or poll it for ever."""

NOTICES_OPTION = "notices"
"""Where `Delivery.options` keeps which of this protocol's own headers were not honoured."""

FILES_BASE_OPTION = "files_base"
"""Where `Delivery.options` keeps the address the caller knew this server by, for the webhook's links."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A body in canonical form, but for its pictures.

    request: complete except for `images`, which is empty. image_texts: links or data URIs, in order.
    inline: the answer shall hold data URIs.
    """

    request: EditRequest
    image_texts: tuple[str, ...]
    inline: bool


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


@dataclass(frozen=True, slots=True)
class RequestPath:
    """`{base}/requests/{id}[/{action}]`; action is `result`, `status`, `stream` or `cancel`."""

    base: str
    request_id: str
    action: str


_ACTIONS: Mapping[tuple[str, ...], str] = {
    (): "result",
    ("response",): "result",
    ("status",): "status",
    ("status", "stream"): "stream",
    ("cancel",): "cancel",
}


def parse_request_path(path: str) -> RequestPath | None:
    """The parts of a path under the queue, or None when it names no request. Trailing slashes are fine."""
    parts = [part for part in path.split("/") if part]
    if "requests" not in parts[1:-1]:
        return None
    at = parts.index("requests", 1)
    action = _ACTIONS.get(tuple(parts[at + 2 :]))
    return RequestPath("/".join(parts[:at]), parts[at + 1], action) if action else None


def parse_json(data: bytes) -> Mapping[str, Any]:
    """The object in a body; an empty body is an empty object. Raises InvalidBody."""
    if not data.strip():
        return {}
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        problem = Problem((error.pos,), "JSON decode error", "json_invalid", {"error": error.msg})
        raise InvalidBody((problem,)) from None
    if not isinstance(body, dict):
        raise InvalidBody((Problem((), "Input should be a valid object", "dict_type"),))
    return body


def request_of(endpoint: Endpoint, values: Mapping[str, Any]) -> Asked:
    """Checked values (`values.check_body`) as an edit; raises InvalidRequest for an impossible size."""
    images = values["images"]
    format_ = values.get("output_format", "png")
    acceleration = values.get("acceleration")
    request = EditRequest(
        model=endpoint.id,
        prompt=values["prompt"],
        images=(),
        negative_prompt=values.get("negative_prompt"),
        size=_size(values.get("size"), keep=endpoint.keeps_size),
        seed=values.get("seed"),
        num_images=values.get("num_images", 1),
        steps=values.get("steps"),
        guidance_scale=values.get("guidance_scale"),
        acceleration=None if acceleration is None else Acceleration(acceleration),
        output_format=OutputFormat(format_),
        enable_safety_checker=values.get("enable_safety_checker", True),
        enable_prompt_expansion=values.get("enable_prompt_expansion", False),
    )
    return Asked(request, (images,) if isinstance(images, str) else tuple(images), bool(values.get("inline")))


def _size(value: str | tuple[int, int] | None, *, keep: bool) -> SizeRequest:
    if value is None and keep:
        return SizeRequest(like_reference=True)
    if isinstance(value, tuple):
        return sizes.parse(width=value[0], height=value[1])
    return sizes.parse(size=value)


def delivery_of(endpoint: Endpoint, asked: Asked, terms: Terms, files_base: str) -> Delivery:
    """files_base: what links to files begin with, for an answer that is sent without being asked for."""
    options = {NOTICES_OPTION: dump_notices(terms.notices)} if terms.notices else {}
    if terms.webhook_url is not None:
        options[FILES_BASE_OPTION] = files_base
    return Delivery(
        protocol=PROTOCOL,
        endpoint=endpoint.id,
        webhook_url=terms.webhook_url,
        retention_s=terms.retention_s,
        inline=asked.inline,
        keep_payload=terms.keep_payload,
        options=options,
    )


def dump_input(endpoint: Endpoint, asked: Asked) -> dict[str, Any]:
    """The body that asks for the same: what `check_body` and `request_of` turn back into `asked`."""
    request, size = asked.request, asked.request.size
    values: dict[str, Any] = {
        "prompt": request.prompt,
        "images": asked.image_texts,
        "negative_prompt": request.negative_prompt,
        "size": None if size.width is None else {"width": size.width, "height": size.height},
        "steps": request.steps,
        "guidance_scale": request.guidance_scale,
        "seed": request.seed,
        "inline": asked.inline,
        "num_images": request.num_images,
        "enable_safety_checker": request.enable_safety_checker,
        "enable_prompt_expansion": request.enable_prompt_expansion,
        "output_format": request.output_format.value,
        "acceleration": None if request.acceleration is None else request.acceleration.value,
    }
    body = {p.name: values[p.canonical] for p in endpoint.parameters if values[p.canonical] is not None}
    if "image_url" in body:
        body["image_url"] = asked.image_texts[0]
    elif "image_urls" in body:
        body["image_urls"] = list(asked.image_texts)
    return body


def dump_submitted(job: Job, urls: RequestUrls, position: int) -> dict[str, Any]:
    return {**_envelope(job, urls), "status": "IN_QUEUE", "logs": None, "metrics": {}, "queue_position": position}


def dump_status(
    job: Job, urls: RequestUrls, position: int, logs: Sequence[Mapping[str, Any]] | None, endpoint: Endpoint | None
) -> tuple[int, dict[str, Any]]:
    """HTTP status and body of a status call: 202 until the job has ended, then 200.

    logs: None when they were not asked for.
    """
    entries = None if logs is None else list(logs)
    body: dict[str, Any] = {"status": STATUS_WORDS[job.state], **_envelope(job, urls), "logs": entries, "metrics": {}}
    if job.state is JobState.QUEUED:
        body["queue_position"] = position
    if not job.state.final:
        return 202, body
    body["metrics"] = {"inference_time": inference_s(job)}
    failure = failure_of(job)
    if failure is not None:
        answer = answer_to_failure(failure, endpoint)
        body |= {"error": answer.text, "error_type": answer.kind}
    return 200, body


def _envelope(job: Job, urls: RequestUrls) -> dict[str, Any]:
    return {
        "request_id": job.id,
        "response_url": urls.response,
        "status_url": urls.status,
        "cancel_url": urls.cancel,
    }


def failure_of(job: Job) -> Failure | None:
    """Why a job has no picture; None for one that succeeded or has not ended."""
    if job.state is JobState.CANCELLED:
        return Failure("cancelled", "The request was cancelled.")
    if job.state is JobState.FAILED:
        return job.failure or Failure("internal_error", "The edit failed.")
    return None


def inference_s(job: Job) -> float:
    """Seconds from the start of the work to its end; 0 for a job that never ran."""
    if job.output is not None and "inference" in job.output.timings:
        return job.output.timings["inference"]
    if job.started_at is None or job.finished_at is None:
        return 0.0
    return (job.finished_at - job.started_at).total_seconds()


def ends(events: Sequence[JobEvent]) -> bool:
    """Whether the history says that the job is over."""
    return any(event.kind == "state" and event.data.get("state") in FINAL_STATES for event in events)


def dump_logs(events: Sequence[JobEvent], notices: Sequence[Notice] = ()) -> list[dict[str, Any]]:
    """Log lines of a job: what the worker wrote, each step, and at the end what was not used as written."""
    entries = [
        _log_entry(str(event.data.get("level", "INFO")), text, event.created_at)
        for event in events
        if (text := _log_text(event))
    ]
    ended = events[-1].created_at if events else None
    if ended is not None:
        entries += [_log_entry("WARN", f"{n.parameter} {n.action}: {n.detail}", ended) for n in notices]
    return entries


def _log_text(event: JobEvent) -> str | None:
    if event.kind == "log":
        return str(event.data.get("message", ""))
    if event.kind == "step":
        return f"Step {event.data.get('step')} of {event.data.get('steps')}"
    return None


def _log_entry(level: str, message: str, at: datetime) -> dict[str, Any]:
    return {"message": message, "level": level, "source": "USER", "timestamp": at.isoformat()}


def dump_result(job: Job, endpoint: Endpoint, urls: Sequence[str]) -> dict[str, Any]:
    """The bare output object of a succeeded job. urls: a link or data URI for each picture, in order."""
    assert job.output is not None, "only a succeeded job has a result"
    output = job.output
    everything = {
        "images": [_image(image, url, endpoint) for image, url in zip(output.images, urls, strict=True)],
        "timings": dict(output.timings),
        "seed": output.images[0].seed,
        "has_nsfw_concepts": [bool(image.unsafe) for image in output.images],
        "prompt": output.prompt,
    }
    return {key: everything[key] for key in endpoint.output}


def _image(image: OutputImage, url: str, endpoint: Endpoint) -> dict[str, Any]:
    everything = {
        "url": url,
        "content_type": image.media_type,
        "file_name": image.blob.rsplit("/", 1)[-1],
        "file_size": image.size_bytes,
        "width": image.width,
        "height": image.height,
    }
    return {key: everything[key] for key in endpoint.image_keys}


def notices_of(job: Job) -> tuple[Notice, ...]:
    """Everything about the request that was not done as written, one notice a parameter."""
    found = [Notice(**notice) for notice in json.loads(job.delivery.options.get(NOTICES_OPTION, "[]"))]
    found += job.notices
    output = job.output
    if output is not None:
        found += output.notices
        if job.request.enable_safety_checker and all(image.unsafe is None for image in output.images):
            detail = "No safety checker is installed here: the pictures were not checked."
            found.append(Notice("enable_safety_checker", "ignored", detail))
    endpoint = ENDPOINTS[job.delivery.endpoint]
    named = [replace(notice, parameter=_wire_name(endpoint, notice.parameter)) for notice in found]
    return tuple({notice.parameter: notice for notice in named}.values())


def _wire_name(endpoint: Endpoint, canonical: str) -> str:
    return ".".join(str(part) for part in endpoint.location(canonical)) or canonical


def dump_notices(notices: Sequence[Notice]) -> str:
    """As JSON in ASCII, fit for a header."""
    return json.dumps([{"parameter": n.parameter, "action": n.action, "detail": n.detail} for n in notices])
