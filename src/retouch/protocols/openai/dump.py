"""The shapes this face answers with: images, stream events, models, the estimate of a dry run, headers.

Built from finished values only. It reads no file and decides no parameter; errors are in `errors.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import zip_longest
from typing import Any

from retouch.catalog import HOSTED, Route
from retouch.catalog.normaliser import ServedTarget
from retouch.edit import EditOutput, EditRequest, Notice, OutputFormat, Usage
from retouch.jobs.job import Job
from retouch.protocols.openai.parse import NAMES, PROVIDER, EditCall
from retouch.protocols.outcome import dump_notices, notices_in_wire_names
from retouch.sizes import Sizes

PROVIDER_NAME = "Local"
PATCH = 16
"""Side in pixels of the square one token of the model stands for (VAE 8 x patch 2)."""

MODELS_CREATED = 1_755_475_200
"""18 August 2025, when the weights of this family were published; OpenAI's shape wants a time."""

_SAFETY_SWITCH = "enable_safety_checker"

MAX_NAMES_IN_HEADER = 40

_FORMATS_IN_TYPES = frozenset({OutputFormat.PNG, OutputFormat.WEBP, OutputFormat.JPEG, OutputFormat.GIF})
_HEADER_NAME_SAFE = re.compile(r"[^A-Za-z0-9_.\[\]-]")


@dataclass(frozen=True, slots=True)
class DeliveredImage:
    """One image as its caller gets it; None leaves the member out."""

    b64_json: str | None = None
    url: str | None = None


def executed_model(job: Job) -> str:
    """`provider/model`; of an edit that a provider makes it is known when it is made."""
    made = None if job.output is None else job.output.applied.get("provider")
    return made or (f"{job.queue}/{job.request.model}" if job.queue == HOSTED.name else f"{PROVIDER}/{job.queue}")


def provider_of(executed: str) -> str:
    return executed.partition("/")[0]


def ignored_parameters(notices: Sequence[Notice]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(notice.parameter for notice in notices if notice.action == "ignored"))


def answer_headers(call: EditCall, job: Job, *, replayed: bool) -> dict[str, str]:
    executed = executed_model(job)
    headers = {"x-provider": provider_of(executed), "x-model": executed}
    ignored = ignored_parameters(_notices(call, job))
    if ignored:
        # The caller chose these names, so they may hold anything.
        safe = (_HEADER_NAME_SAFE.sub("?", name[:60]) for name in ignored[:MAX_NAMES_IN_HEADER])
        headers["x-ignored-parameters"] = ", ".join(safe)
    if replayed:
        headers["idempotent-replayed"] = "true"
    return headers


def dump_response(call: EditCall, job: Job, delivered: Sequence[DeliveredImage]) -> dict[str, Any]:
    """`ImagesResponse` of a succeeded job; `delivered` has one member per output image."""
    output = _output(job)
    first = output.images[0]
    data: list[dict[str, Any]] = []
    for image, how in zip(output.images, delivered, strict=True):
        forms = {"b64_json": how.b64_json, "url": how.url}
        data.append(
            {name: value for name, value in forms.items() if value is not None}
            | {
                "revised_prompt": output.prompt,
                "seed": image.seed,
                "width": image.width,
                "height": image.height,
                "content_type": image.media_type,
                "has_nsfw_concepts": image.unsafe,
            }
        )
    body: dict[str, Any] = {
        "created": _seconds(job.finished_at),
        "background": "opaque",
        "quality": call.reported_quality(job.request.steps),
        "size": _dimensions((first.width, first.height)),
        "data": data,
        "usage": _dump_usage(output),
        "metadata": _dump_metadata(call, job, output),
        "timings": {name: round(seconds, 4) for name, seconds in output.timings.items()},
    }
    if job.request.output_format in _FORMATS_IN_TYPES:
        body["output_format"] = job.request.output_format.value
    if call.safety_identifier is not None:
        body["safety_identifier"] = call.safety_identifier
    return body


def dump_partial(
    call: EditCall, request: EditRequest, *, b64_json: str, index: int, size: tuple[int, int], now_s: int, image: int
) -> dict[str, Any]:
    """`image_edit.partial_image`: the preview with this index of the output image with the number `image`."""
    event = _event("image_edit.partial_image", call, request, b64_json, size, now_s)
    event["partial_image_index"] = index
    return event if request.num_images == 1 else {**event, "image_index": image}


def dump_completed(call: EditCall, job: Job, position: int, delivered: DeliveredImage) -> dict[str, Any]:
    """`image_edit.completed` of the output image at `position`."""
    output = _output(job)
    image = output.images[position]
    assert delivered.b64_json is not None, "a stream carries its images"
    size = (image.width, image.height)
    event = _event("image_edit.completed", call, job.request, delivered.b64_json, size, _seconds(job.finished_at))
    event |= {"usage": _dump_usage(output), "seed": image.seed, "metadata": _dump_metadata(call, job, output)}
    if delivered.url is not None:
        event["url"] = delivered.url
    return event if len(output.images) == 1 else {**event, "image_index": position}


def dump_model(route: Route, target: ServedTarget | None = None) -> dict[str, Any]:
    """target: the first one its edits are offered to, where that is not our own queue."""
    model, checkpoint = route.model, route.checkpoint
    hosted = None if target is None or target.profile.local else target
    return {
        "id": model.id,
        "object": "model",
        "created": MODELS_CREATED,
        "owned_by": "retouch",
        "title": model.title,
        "executed_model": f"{PROVIDER}/{checkpoint.name}" if hosted is None else hosted.name,
        "capabilities": {
            "modes": ["edit"],
            "max_images": min(model.max_images, checkpoint.max_images),
            "max_n": model.max_num_images,
            "output_formats": [output_format.value for output_format in model.output_formats],
            "max_loras": model.max_loras if checkpoint.takes_loras else 0,
            "distilled": checkpoint.distilled,
        },
        "price": {
            "per_image_microusd": model.price.per_image_microusd,
            "per_megapixel_microusd": model.price.per_megapixel_microusd,
        },
    }


def dump_targets(targets: Sequence[ServedTarget]) -> list[dict[str, Any]]:
    """What becomes of each parameter, by this face's name, at each place where the model's edits may be made."""
    return [
        {
            "target": target.name,
            "price": None if target.price is None else target.price.to_json(),
            "max_images": target.profile.max_images,
            "output_formats": [each.value for each in target.profile.output_formats],
            "sizes": target.profile.sizes.way.value,
            "parameters": {
                NAMES.get(name, name): {"behavior": cell.behaviour.value, "sent_as": cell.name if cell.sent else None}
                for name, cell in target.profile.cells.items()
            },
        }
        for target in targets
    ]


def dump_models(routes: Sequence[Route], targets: Sequence[ServedTarget | None] = ()) -> dict[str, Any]:
    """targets: the first one of each route."""
    return {"object": "list", "data": [dump_model(*each) for each in zip_longest(routes, targets)]}


def dump_estimate(
    call: EditCall,
    request: EditRequest,
    route: Route,
    sizes: Sizes,
    notices: Sequence[Notice],
    *,
    size_known: bool,
    target: ServedTarget | None = None,
) -> dict[str, Any]:
    """The answer to a dry run.

    request: completed by its route. notices: in canonical names, those of `sizes` among them. size_known: False where
    a link hides the shape until it is fetched; then `sizes` are those of a square, and the price is of it. target: the
    provider that would be asked, whose price it is then.
    """
    count = request.num_images
    pixels = count * sizes.output[0] * sizes.output[1]
    cost_microusd = route.price_microusd(Usage(count, pixels, 0, 0))
    executed = f"{PROVIDER}/{route.checkpoint.name}"
    if target is not None:
        inputs = len(call.image_names) * count
        cost_microusd = 0 if target.price is None else target.price.of(count, pixels, inputs=inputs)
        executed = target.name
    named = tuple(dict.fromkeys((*call.notices, *notices_in_wire_names(notices, call.wire_name))))
    return {
        "estimated": True,
        "model": call.model or request.model,
        "provider": provider_of(executed),
        "total_cost_micros": cost_microusd,
        "currency": "USD",
        "components": [
            {
                "type": "output",
                "metric": "image",
                "quantity": count,
                "billable_quantity": count,
                "unit_price": round(cost_microusd / count / 1e6, 9),
                "total_cost": cost_microusd / 1e6,
            }
        ],
        "resolved": {
            "executed_model": executed,
            "canvas": _dimensions(sizes.canvas) if size_known else None,
            "output": _dimensions(sizes.output) if size_known else None,
            "steps": request.steps,
            "cfg_scale": request.guidance_scale,
            "acceleration": None if request.acceleration is None else request.acceleration.value,
            "seed": "random" if call.request.seed is None else call.request.seed,
            "quality": call.reported_quality(request.steps),
            "ignored_parameters": list(ignored_parameters(named)),
            "notices": dump_notices(named),
        },
    }


def _notices(call: EditCall, job: Job) -> tuple[Notice, ...]:
    """What was not taken as written, found before the job and during it, in the caller's names."""
    canonical = [*job.notices]
    if job.output is not None:
        canonical += job.output.notices
        wanted = _SAFETY_SWITCH in call.names and job.request.enable_safety_checker
        unchecked = all(image.unsafe is None for image in job.output.images)
        if wanted and unchecked and all(notice.parameter != _SAFETY_SWITCH for notice in canonical):
            detail = "No safety checker is installed here: 'has_nsfw_concepts' is null, not false."
            canonical.append(Notice(_SAFETY_SWITCH, "ignored", detail))
    return tuple(dict.fromkeys((*call.notices, *notices_in_wire_names(canonical, call.wire_name))))


def _output(job: Job) -> EditOutput:
    assert job.output is not None, "only a succeeded job is dumped"
    return job.output


def _seconds(moment: datetime | None) -> int:
    assert moment is not None, "a final job has an end"
    return int(moment.timestamp())


def _dimensions(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _dump_usage(output: EditOutput) -> dict[str, Any]:
    """Tokens of the images made, one per patch of the canvas; what went in is not counted."""
    width, height = output.canvas
    tokens = (width // PATCH) * (height // PATCH) * len(output.images)
    return {
        "input_tokens": 0,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
        "output_tokens": tokens,
        "output_tokens_details": {"image_tokens": tokens, "text_tokens": 0},
        "total_tokens": tokens,
    }


def _dump_metadata(call: EditCall, job: Job, output: EditOutput) -> dict[str, Any]:
    notices = _notices(call, job)
    first, executed = output.images[0], executed_model(job)
    provider = provider_of(executed)
    return {
        "model": call.model or job.request.model,
        "executed_model": executed,
        "provider": provider,
        "provider_name": PROVIDER_NAME if provider == PROVIDER else provider,
        "cost": job.usage.price_microusd / 1e6 if job.usage else 0.0,
        "cost_currency": "USD",
        "job_id": job.id,
        "output_format": job.request.output_format.value,
        "size": {
            "requested": job.request.size.words,
            "canvas": _dimensions(output.canvas),
            "output": _dimensions((first.width, first.height)),
        },
        "applied": dict(output.applied),
        "ignored_parameters": list(ignored_parameters(notices)),
        "notices": dump_notices(notices),
    }


def _event(  # noqa: PLR0917 - the members every event has
    name: str, call: EditCall, request: EditRequest, b64_json: str, size: tuple[int, int], created_at: int
) -> dict[str, Any]:
    return {
        "type": name,
        "b64_json": b64_json,
        "created_at": created_at,
        "size": _dimensions(size),
        "quality": call.reported_quality(request.steps),
        "background": "opaque",
        "output_format": request.output_format.value,
    }
