"""The shapes this face answers with: images, stream events, models, the estimate of a dry run.

Built from finished values only. It reads no file and decides no parameter; errors are in `errors.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from retouch.catalog import Route
from retouch.edit import EditOutput, Notice, OutputFormat, OutputImage, Usage
from retouch.jobs.job import Job
from retouch.protocols.openai.errors import ErrorAnswer
from retouch.protocols.openai.wire import PROVIDER, EditCall, Settled, wire_name
from retouch.sizes import Sizes

PROVIDER_NAME = "Local"
PATCH = 16
"""Side in pixels of the square one token of the model stands for (VAE 8 x patch 2)."""

MODELS_CREATED = 1_755_475_200
"""18 August 2025, when the weights of this family were published; OpenAI's shape wants a time."""

_FORMATS_IN_TYPES = frozenset({OutputFormat.PNG, OutputFormat.WEBP, OutputFormat.JPEG, OutputFormat.GIF})


@dataclass(frozen=True, slots=True)
class Shown:
    """One picture as it is handed over; None leaves the member out."""

    b64_json: str | None = None
    url: str | None = None


def executed_model(job: Job) -> str:
    return f"{PROVIDER}/{job.queue}"


def ignored_parameters(notices: Sequence[Notice]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(notice.parameter for notice in notices if notice.action == "ignored"))


def all_notices(call: EditCall, settled: Settled, output: EditOutput | None) -> tuple[Notice, ...]:
    """What was not taken as written, said before the job and during it, in the caller's names."""
    notices = dict.fromkeys((*settled.notices, *(output.notices if output else ())))
    return tuple(Notice(wire_name(n.parameter, call), n.action, n.detail) for n in notices)


def dump_response(call: EditCall, settled: Settled, job: Job, shown: Sequence[Shown]) -> dict[str, Any]:
    """`ImagesResponse` of a succeeded job; `shown` has one member per output picture."""
    output = _output(job)
    first = output.images[0]
    body: dict[str, Any] = {
        "created": _seconds(job.finished_at),
        "background": "opaque",
        "quality": settled.quality,
        "size": f"{first.width}x{first.height}",
        "data": [_dump_image(image, how, output) for image, how in zip(output.images, shown, strict=True)],
        "usage": _dump_usage(output),
        "metadata": _dump_metadata(call, settled, job, output),
        "timings": {name: round(seconds, 6) for name, seconds in output.timings.items()},
    }
    if job.request.output_format in _FORMATS_IN_TYPES:
        body["output_format"] = job.request.output_format.value
    if call.safety_identifier is not None:
        body["safety_identifier"] = call.safety_identifier
    return body


def dump_partial(
    settled: Settled, *, b64_json: str, index: int, size: tuple[int, int], now_s: int, image_index: int | None
) -> dict[str, Any]:
    """`image_edit.partial_image`. image_index is sent only where there are several pictures."""
    event = _event("image_edit.partial_image", settled, b64_json, size, now_s)
    event["partial_image_index"] = index
    return event if image_index is None else {**event, "image_index": image_index}


def dump_completed(call: EditCall, settled: Settled, job: Job, position: int, shown: Shown) -> dict[str, Any]:
    """`image_edit.completed` of the output picture at `position`."""
    output = _output(job)
    image = output.images[position]
    assert shown.b64_json is not None, "a stream carries its pictures"
    size = (image.width, image.height)
    event = _event("image_edit.completed", settled, shown.b64_json, size, _seconds(job.finished_at))
    event |= {"usage": _dump_usage(output), "seed": image.seed, "metadata": _dump_metadata(call, settled, job, output)}
    if shown.url is not None:
        event["url"] = shown.url
    return event if len(output.images) == 1 else {**event, "image_index": position}


def frame(event: dict[str, Any]) -> bytes:
    """One server-sent event, with the blank line without which Python's client loses it."""
    return b"event: " + str(event["type"]).encode() + b"\ndata: " + orjson.dumps(event) + b"\n\n"


def error_frame(answer: ErrorAnswer) -> bytes:
    return frame({"type": "error", **answer.body})


def comment(text: str) -> bytes:
    return f": {text}\n\n".encode()


def dump_model(route: Route) -> dict[str, Any]:
    model, checkpoint = route.model, route.checkpoint
    return {
        "id": model.id,
        "object": "model",
        "created": MODELS_CREATED,
        "owned_by": "retouch",
        "title": model.title,
        "executed_model": f"{PROVIDER}/{checkpoint.name}",
        "capabilities": {
            "modes": ["edit"],
            "max_images": min(model.max_images, checkpoint.max_images),
            "max_n": model.max_num_images,
            "output_formats": [output_format.value for output_format in model.output_formats],
            "distilled": checkpoint.distilled,
        },
        "price": {
            "per_image_microusd": model.price.per_image_microusd,
            "per_megapixel_microusd": model.price.per_megapixel_microusd,
        },
    }


def dump_models(routes: Sequence[Route]) -> dict[str, Any]:
    return {"object": "list", "data": [dump_model(route) for route in routes]}


def dump_estimate(call: EditCall, settled: Settled, route: Route, sizes: Sizes | None) -> dict[str, Any]:
    """The answer to a dry run. sizes: None where a link hides the size until it is fetched; then the
    model's default area is priced."""
    request, count = settled.completed, settled.completed.num_images
    area = sizes.output[0] * sizes.output[1] if sizes else route.checkpoint.sizes.default_area
    cost_microusd = route.price_microusd(Usage(count, count * area, 0, 0))
    notices = (*settled.notices, *(sizes.notices if sizes else ()))
    named = tuple(Notice(wire_name(n.parameter, call), n.action, n.detail) for n in notices)
    return {
        "estimated": True,
        "model": call.model or request.model,
        "provider": PROVIDER,
        "total_cost_micros": cost_microusd,
        "currency": "USD",
        "components": [
            {
                "type": "output",
                "metric": "image",
                "quantity": count,
                "billable_quantity": count,
                "unit_price": cost_microusd / count / 1e6,
                "total_cost": cost_microusd / 1e6,
            }
        ],
        "resolved": {
            "executed_model": f"{PROVIDER}/{route.checkpoint.name}",
            "canvas": _dimensions(sizes.canvas) if sizes else None,
            "output": _dimensions(sizes.output) if sizes else None,
            "steps": request.steps,
            "cfg_scale": request.guidance_scale,
            "acceleration": None if request.acceleration is None else request.acceleration.value,
            "seed": "random" if settled.edit.seed is None else settled.edit.seed,
            "quality": settled.quality,
            "ignored_parameters": list(ignored_parameters(named)),
            "notices": _dump_notices(named),
        },
    }


def _output(job: Job) -> EditOutput:
    assert job.output is not None, "only a succeeded job is dumped"
    return job.output


def _seconds(moment: datetime | None) -> int:
    assert moment is not None, "a final job has an end"
    return int(moment.timestamp())


def _dimensions(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _dump_image(image: OutputImage, shown: Shown, output: EditOutput) -> dict[str, Any]:
    item: dict[str, Any] = {}
    if shown.b64_json is not None:
        item["b64_json"] = shown.b64_json
    if shown.url is not None:
        item["url"] = shown.url
    return item | {
        "revised_prompt": output.prompt,
        "seed": image.seed,
        "width": image.width,
        "height": image.height,
        "content_type": image.media_type,
        "has_nsfw_concepts": image.unsafe,
    }


def _dump_usage(output: EditOutput) -> dict[str, Any]:
    """Tokens of the pictures made, one per patch of the canvas; what went in is not counted."""
    width, height = output.canvas
    tokens = (width // PATCH) * (height // PATCH) * len(output.images)
    return {
        "input_tokens": 0,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
        "output_tokens": tokens,
        "output_tokens_details": {"image_tokens": tokens, "text_tokens": 0},
        "total_tokens": tokens,
    }


def _dump_metadata(call: EditCall, settled: Settled, job: Job, output: EditOutput) -> dict[str, Any]:
    notices = all_notices(call, settled, output)
    first = output.images[0]
    return {
        "model": call.model or job.request.model,
        "executed_model": executed_model(job),
        "provider": PROVIDER,
        "provider_name": PROVIDER_NAME,
        "cost": job.usage.price_microusd / 1e6 if job.usage else 0.0,
        "cost_currency": "USD",
        "job_id": job.id,
        "output_format": job.request.output_format.value,
        "size": {
            "requested": job.request.size.words,
            "canvas": _dimensions(output.canvas),
            "output": f"{first.width}x{first.height}",
        },
        "applied": dict(output.applied),
        "ignored_parameters": list(ignored_parameters(notices)),
        "notices": _dump_notices(notices),
    }


def _dump_notices(notices: Sequence[Notice]) -> list[dict[str, str]]:
    return [{"parameter": n.parameter, "action": n.action, "detail": n.detail} for n in notices]


def _event(kind: str, settled: Settled, b64_json: str, size: tuple[int, int], created_at: int) -> dict[str, Any]:
    return {
        "type": kind,
        "b64_json": b64_json,
        "created_at": created_at,
        "size": _dimensions(size),
        "quality": settled.quality,
        "background": "opaque",
        "output_format": settled.completed.output_format.value,
    }
