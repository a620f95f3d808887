"""What a call of `images.edit` says, as values of ours: every parameter honoured, converted or refused.

`parse_call` takes a body apart by name and type, `resolve` fits it to the model that will run it. Limits that hold for
every face are checked by `EditRequest` and the catalogue; images are not looked at, and answers are in `dump.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, cast

from retouch.catalog import Catalog, Route
from retouch.catalog.models import LOCAL_PREFIX
from retouch.edit import Delivery, EditRequest, Notice
from retouch.errors import MissingParameter, UnknownModel
from retouch.protocols.openai.form import Body
from retouch.protocols.openai.parameters import (
    Fields,
    read_acceleration,
    read_expansion,
    read_loras,
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
from retouch.protocols.upstream_options import NAME, read_upstream_options

ResponseFormat: TypeAlias = Literal["both", "url", "b64_json"]

PROVIDER = "local"
"""The name of this server's own engine among providers; `local/<model>` names it explicitly."""

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
    """A call, parsed. It lives as long as its answer takes, so it holds no image, only their names.

    model: as written, or None. request: with neither model nor images in it yet. image_names, mask_name: what errors
    call them. quality: the word for it that answers report, never `auto`; None until the number of steps tells it.
    inline: `url` members are data URIs. names: canonical field to what the caller wrote. notices: what was not taken
    as written, in the caller's names.
    """

    model: str | None
    request: EditRequest
    image_names: tuple[str, ...]
    mask_name: str | None
    quality: str | None
    response_format: ResponseFormat
    inline: bool
    stream: bool
    partial_images: int
    user: str | None
    safety_identifier: str | None
    names: Mapping[str, str]
    notices: tuple[Notice, ...]

    def delivery(self) -> Delivery:
        return Delivery(
            "openai",
            self.model or self.request.model,
            inline=self.inline,
            previews=self.partial_images if self.stream else 0,
            options={"response_format": self.response_format},
        )

    def wire_name(self, canonical: str) -> str:
        """What the caller called the field `canonical`, such as `images[0]` or `num_images`."""
        head, bracket, rest = canonical.partition("[")
        if head == "images" and bracket and rest[:-1].isdecimal() and int(rest[:-1]) < len(self.image_names):
            return self.image_names[int(rest[:-1])]
        if canonical == "mask" and self.mask_name is not None:
            return self.mask_name
        return self.names.get(canonical) or NAMES.get(canonical, canonical)

    def reported_quality(self, steps: int | None) -> str:
        """The word an answer reports: the caller's, else what `steps` come to."""
        return self.quality or next((word for word, upper in _STEPS.items() if (steps or 0) <= upper), "high")


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
    _, options = fields.take(NAME)
    request = EditRequest(
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
        enable_prompt_expansion=read_expansion(fields),
        strict=read_strict(fields, size_policy),
        loras=read_loras(fields),
        upstream_options={} if options is None else read_upstream_options(options),
    )
    stream, partial_images = read_stream(fields, output_format)
    quality = fields.word("quality", (*_QUALITIES, "auto"))
    call = EditCall(
        model=fields.text("model"),
        request=request,
        image_names=tuple(image.name for image in body.images),
        mask_name=body.mask.name if body.mask else None,
        quality=None if quality == "auto" else quality,
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
    name = (model or DEFAULT_MODEL).strip()
    route = catalog.route(name)
    if name.startswith(LOCAL_PREFIX) and all(not target.profile.local for target in catalog.targets(route)):
        raise UnknownModel(f"Edits of '{route.model.id}' are not made here; leave '{LOCAL_PREFIX}' out.", field="model")
    return route


def resolve(call: EditCall, route: Route) -> EditCall:
    """The call fitted to the model of `route`: its id, and quality as steps unless steps were given.

    A distilled checkpoint has but one number of steps, whatever the quality. Limits are checked at the submit.
    """
    request, checkpoint = replace(call.request, model=route.model.id), route.checkpoint
    if call.quality is None:
        return replace(call, request=request, quality="high" if checkpoint.distilled else None)
    quality, detail = _QUALITIES[call.quality], None
    if request.steps is not None:
        detail = f"{request.steps} steps were given and are run."
    elif checkpoint.distilled or route.model.steps is None:
        detail = f"'{checkpoint.name}' runs {checkpoint.steps} steps at every quality."
    else:
        request = replace(request, steps=_STEPS[quality])
        if call.quality in ("xhigh", "max"):
            detail = f"'high' is the most there is: {request.steps} steps."
    notices = () if detail is None else (Notice("quality", "converted", detail),)
    return replace(call, request=request, quality=quality, notices=call.notices + notices)
