"""What a call of `images.edit` says, as values of ours: every parameter honoured, converted or refused.

`parse_call` takes a body apart by name and type, `settle` fits it to the model that will run it. Shapes
only: limits that hold for every face are checked by `EditRequest` and the catalogue, pictures are bytes
and text here, and what an answer looks like is in `answers.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, cast

from retouch.catalog import Catalog, Checkpoint, Route
from retouch.edit import Delivery, EditRequest, ImageInput, Notice
from retouch.errors import Failure, MissingParameter
from retouch.protocols.openai.fields import Fields
from retouch.protocols.openai.form import Body, RawImage
from retouch.protocols.openai.parameters import (
    read_acceleration,
    read_output,
    read_prompt,
    read_safety,
    read_seed,
    read_size,
    read_stream,
    read_strict,
    refuse_what_is_not_offered,
    take_what_has_no_effect,
    with_plain_line_ends,
)

ResponseFormat: TypeAlias = Literal["both", "url", "b64_json"]

PROVIDER = "local"
"""The name of this server's own engine among providers; `local/<model>` asks for it by name."""

DEFAULT_MODEL = "qwen-image-edit"

NAMES: Mapping[str, str] = {
    "images": "image",
    "num_images": "n",
    "steps": "num_inference_steps",
    "guidance_scale": "cfg_scale",
    "output_quality": "output_compression",
    "reference_image": "reference_image_index",
}
"""Canonical field to OpenAI's or Lumenfall's name, where they differ and the caller wrote neither."""

_QUALITIES: Mapping[str, str] = {
    "low": "low",
    "medium": "medium",
    "standard": "medium",
    "high": "high",
    "hd": "high",
    "xhigh": "high",
    "max": "high",
}
_STEPS: Mapping[str, int] = {"low": 20, "medium": 30, "high": 50}


@dataclass(frozen=True, slots=True)
class EditCall:
    """A call, parsed.

    model: as written, or None. edit: the request, with neither model nor pictures in it yet.
    quality: the word written, or None for auto. inline: `url` members are data URIs. names: canonical
    field to what the caller wrote. notices: what was not taken as written, in the caller's names.
    """

    model: str | None
    edit: EditRequest
    images: tuple[RawImage, ...]
    mask: RawImage | None
    quality: str | None
    response_format: ResponseFormat
    inline: bool
    stream: bool
    partial_images: int
    user: str | None
    safety_identifier: str | None
    names: Mapping[str, str]
    notices: tuple[Notice, ...]

    def delivery(self, endpoint: str) -> Delivery:
        previews = self.partial_images if self.stream else 0
        options: dict[str, str] = {"response_format": self.response_format}
        return Delivery("openai", endpoint, inline=self.inline, previews=previews, options=options)


@dataclass(frozen=True, slots=True)
class Settled:
    """A call fitted to a model.

    edit: as it is submitted, but for the pictures. completed: the same with the model's defaults in it.
    quality: the word the answer reports, never `auto`. notices: in canonical names.
    """

    edit: EditRequest
    completed: EditRequest
    quality: str
    notices: tuple[Notice, ...]


def parse_call(body: Body, *, size_policy: str | None = None) -> EditCall:
    """Read every parameter of a call; raises InvalidRequest and its kinds, naming the caller's own field.

    size_policy: the `X-Param-Policy` header, `nearest` or `error`; a `strict` parameter wins over it.
    """
    fields = Fields(body.values)
    prompt = read_prompt(fields)
    if not body.images:
        raise MissingParameter("image")
    refuse_what_is_not_offered(fields)
    output_format, output_quality = read_output(fields)
    count = fields.integer("num_images", "n")
    edit = EditRequest(
        model="",
        prompt=prompt,
        images=(),
        negative_prompt=with_plain_line_ends(fields.text("negative_prompt")),
        size=read_size(fields),
        seed=read_seed(fields),
        num_images=1 if count is None else count,
        steps=fields.integer("steps", "num_inference_steps", "steps"),
        guidance_scale=fields.number("guidance_scale", "cfg_scale", "true_cfg_scale", "guidance_scale"),
        acceleration=read_acceleration(fields),
        output_format=output_format,
        output_quality=output_quality,
        enable_safety_checker=read_safety(fields),
        strict=read_strict(fields, size_policy),
    )
    stream, partial_images = read_stream(fields, output_format)
    call = EditCall(
        model=fields.text("model"),
        edit=edit,
        images=body.images,
        mask=body.mask,
        quality=fields.word("quality", (*_QUALITIES, "auto")),
        response_format=cast("ResponseFormat", fields.word("response_format", ("url", "b64_json")) or "both"),
        inline=bool(fields.boolean("sync_mode")),
        stream=stream,
        partial_images=partial_images,
        user=fields.text("user"),
        safety_identifier=fields.text("safety_identifier"),
        names=fields.written,
        notices=(),
    )
    take_what_has_no_effect(fields)
    for name in fields.unread():
        fields.notice(name, "ignored", "There is no such parameter here.")
    return replace(call, notices=tuple(fields.notices))


def route_of(catalog: Catalog, model: str | None) -> Route:
    """The route of a model id as callers write it: bare, or with this provider's name before it.

    None is DEFAULT_MODEL. Raises UnknownModel; no other model is served instead.
    """
    return catalog.route((model or DEFAULT_MODEL).strip().removeprefix(f"{PROVIDER}/"))


def settle(call: EditCall, route: Route) -> Settled:
    """Fit `call` to the model of `route` and check it against that model's limits; raises InvalidRequest.

    Nothing is stored or fetched yet, so a call that cannot run leaves nothing behind.
    """
    edit, quality_notices = _with_steps(call, route)
    pending = tuple(ImageInput(url="pending:", field=f"images[{i}]") for i in range(len(call.images)))
    mask = ImageInput(url="pending:", field="mask") if call.mask else None
    completed, notices = route.complete(replace(edit, images=pending, mask=mask))
    word = None if call.quality == "auto" else call.quality
    quality = _QUALITIES[word] if word else _quality_of(completed.steps or 0, route.checkpoint)
    return Settled(edit, completed, quality, call.notices + quality_notices + notices)


def _with_steps(call: EditCall, route: Route) -> tuple[EditRequest, tuple[Notice, ...]]:
    """The edit with quality turned into steps, unless steps were given or the model has but one number."""
    edit, checkpoint = replace(call.edit, model=route.model.id), route.checkpoint
    word = None if call.quality == "auto" else call.quality
    if word is None:
        return edit, ()
    detail = None
    if edit.steps is not None:
        detail = f"{edit.steps} steps were asked for and are run."
    elif checkpoint.distilled or route.model.steps is None:
        detail = f"'{checkpoint.name}' runs {checkpoint.steps} steps at every quality."
    else:
        edit = replace(edit, steps=_STEPS[_QUALITIES[word]])
        if word in ("xhigh", "max"):
            detail = f"'high' is the most there is: {edit.steps} steps."
    return edit, (Notice("quality", "converted", detail),) if detail else ()


def wire_name(canonical: str, call: EditCall | None) -> str:
    """What the caller called the field `canonical`, such as `images[0]` or `num_images`."""
    if call is None:
        return canonical
    head, bracket, rest = canonical.partition("[")
    if head == "images" and bracket and rest[:-1].isdecimal() and int(rest[:-1]) < len(call.images):
        return call.images[int(rest[:-1])].name
    if canonical == "mask" and call.mask is not None:
        return call.mask.name
    return call.names.get(canonical) or NAMES.get(canonical, canonical)


def in_wire_names(failure: Failure, call: EditCall | None) -> tuple[Failure, str | None]:
    """The failure with the caller's name in its sentence, and that name."""
    if failure.field is None:
        return failure, None
    name = wire_name(failure.field, call)
    message = failure.message.replace(f"'{failure.field}'", f"'{name}'")
    return replace(failure, message=message), name


def _quality_of(steps: int, checkpoint: Checkpoint) -> str:
    """The word for a call that named no quality: what its steps come to."""
    if checkpoint.distilled:
        return "high"
    return next((word for word, upper in _STEPS.items() if steps <= upper), "high")
