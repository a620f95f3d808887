"""What a call of `images.edit` says, as values of ours: every parameter honoured, converted or refused.

`parse_call` reads the named values of a body, form text and native JSON alike; `Fields` remembers which name was read
for what, so that errors point at what the caller wrote and nothing is ignored in silence. `resolve` fits the call to
the model that will run it. Limits that hold for every face are checked by `EditRequest` and the catalogue; images are
not looked at, and answers are in `dump.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, cast

import orjson

from retouch import sizes
from retouch.catalog import Catalog, Route
from retouch.catalog.routing import LOCAL_PREFIX
from retouch.edit import Acceleration, Delivery, EditRequest, Lora, Notice, OutputFormat, SizeRequest
from retouch.errors import (
    InvalidRequest,
    InvalidType,
    MissingParameter,
    NotOneOf,
    OutOfRange,
    UnknownModel,
    UnsupportedParameter,
)
from retouch.protocols.inputs import UPSTREAM_OPTIONS, parse_boolean, parse_loras, parse_number, read_upstream_options
from retouch.protocols.openai.form import Body

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

_FORMATS = ("png", "jpeg", "webp", "gif", "avif")
_STREAMED_FORMATS = frozenset({OutputFormat.PNG, OutputFormat.JPEG, OutputFormat.WEBP})
_NO_QUALITY_FORMATS = frozenset({OutputFormat.PNG, OutputFormat.GIF})

_REFUSED: Mapping[str, str] = {
    "markup": "Draw on a copy of the image and send it as a second image.",
    "frame_count": "Answers are still images.",
    "frame_duration_ms": "Answers are still images.",
    "svg": "Answers are pixels.",
}
"""Known parameters that would change the image and are not offered here."""

_WITHOUT_EFFECT: Mapping[str, tuple[tuple[str, ...], str]] = {
    "input_fidelity": (("high", "low"), "References are always read at the model's full size."),
    "complexity": (("low", "medium", "high"), "There is no planning step."),
    "moderation": (("auto", "low"), "The safety checker has one level."),
    "style": (("vivid", "natural"), "Say the style in the prompt."),
}
"""Accepted words that change nothing here: (allowed words, why)."""

_ABSENT_WORDS = frozenset({"", "null", "None", "undefined"})
_INTEGER = re.compile(r"[+-]?\d{1,30}(\.0*)?")


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


# --- the call


def parse_call(body: Body, *, size_policy: str | None = None) -> EditCall:
    """Read every parameter of a call; raises InvalidRequest and its kinds, naming the caller's own field.

    size_policy: the `X-Param-Policy` header, `nearest` or `error`; a `strict` parameter wins over it.
    """
    fields = Fields(body.values)
    prompt = fields.exactly("prompt")  # the word "null" is a prompt too
    if prompt is None or (isinstance(prompt, str) and not prompt.strip()):
        raise MissingParameter("prompt")
    if not isinstance(prompt, str):
        raise InvalidType("prompt", "string", _printable(prompt))
    prompt = _with_plain_line_ends(to_text("prompt", prompt))
    if not body.images:
        raise MissingParameter("image")
    request = _read_request(fields, prompt, size_policy)
    stream, partial_images = _read_stream(fields, request.output_format)
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
    for name, (words, why) in _WITHOUT_EFFECT.items():
        if fields.word(name, words) not in (None, "auto"):
            fields.notice(name, "ignored", why)
    if fields.integer("max_sequence_length") is not None:
        fields.notice("max_sequence_length", "ignored", "The prompt is read up to the model's own limit.")
    for name in fields.unread():
        fields.notice(name, "ignored", "There is no such parameter here.")
    return replace(call, notices=tuple(fields.notices))


def _read_request(fields: Fields, prompt: str, size_policy: str | None) -> EditRequest:
    """The edit itself, without its images; the order of the reads is the order in which faults are found."""
    for name, advice in _REFUSED.items():
        if fields.take(name)[1] not in (None, [], "[]"):
            raise UnsupportedParameter(f"The field '{name}' is not supported. {advice}", field=name)
    if fields.word("background", ("auto", "opaque", "transparent")) == "transparent":
        raise UnsupportedParameter(
            "A transparent 'background' is not supported: answers are opaque.", field="background"
        )
    output_format, output_quality = _read_output(fields)
    count = fields.integer("num_images", "n")
    _, options = fields.take(UPSTREAM_OPTIONS)
    negative_prompt = fields.text("negative_prompt")
    size, seed = _read_size(fields), fields.integer("seed")
    expansion = ("enable_prompt_expansion", "enhance_prompt", "prompt_extend")
    return EditRequest(
        model="",
        prompt=prompt,
        images=(),
        negative_prompt=None if negative_prompt is None else _with_plain_line_ends(negative_prompt),
        size=size,
        seed=None if seed == -1 else seed,  # -1 asks for a random one as absence does; 0 is a seed like any other
        num_images=1 if count is None else count,
        steps=fields.integer("steps", "num_inference_steps", "steps"),
        guidance_scale=fields.number("guidance_scale", "cfg_scale", "true_cfg_scale", "guidance_scale"),
        acceleration=_read_acceleration(fields),
        output_format=output_format,
        output_quality=output_quality,
        enable_safety_checker=_read_safety(fields),
        enable_prompt_expansion=bool(fields.boolean("enable_prompt_expansion", *expansion)),
        strict=_read_strict(fields, size_policy),
        loras=_read_loras(fields),
        upstream_options={} if options is None else read_upstream_options(options),
    )


# --- parameters that have to do with one another


def _read_output(fields: Fields) -> tuple[OutputFormat, int]:
    """Format and quality; a quality where the format has none is reported as ignored."""
    name, value = fields.take("output_format")
    word = "png" if value is None else to_text(name, value).strip().lower()
    if word == "svg":
        raise UnsupportedParameter("The output format 'svg' is not supported: answers are pixels.", field=name)
    word = "jpeg" if word == "jpg" else word
    if word not in _FORMATS:
        raise NotOneOf(name, word, _FORMATS)
    output_format = OutputFormat(word)
    quality = fields.integer("output_quality", "output_compression", "output_quality")
    if quality is not None and output_format in _NO_QUALITY_FORMATS:
        name = fields.written["output_quality"]
        fields.notice(name, "ignored", f"The format {word} has no quality setting.")
    return output_format, 100 if quality is None else quality  # OpenAI's default of `output_compression`


def _read_size(fields: Fields) -> SizeRequest:
    """`size`, else `image_size` as fal and others have it, else sides, shape and scale; the more specific one wins."""
    size = fields.text("size")
    aspect_ratio, resolution = fields.text("aspect_ratio"), fields.text("resolution")
    width, height = fields.integer("width"), fields.integer("height")
    name, image_size = fields.take("image_size")
    if isinstance(image_size, str) and image_size.lstrip().startswith("{"):
        try:
            image_size = orjson.loads(image_size)
        except orjson.JSONDecodeError:
            raise InvalidType(name, "object", image_size) from None
    if image_size is not None and (size is not None or width is not None):
        other = "size" if size is not None else "width"
        fields.notice(name, "ignored", f"'{other}' was given too and was used.")
    elif isinstance(image_size, dict):
        width, height = (to_integer(f"{name}[{side}]", image_size.get(side)) for side in ("width", "height"))
    elif image_size is not None:
        size = to_text(name, image_size)
        fields.written["size"] = name
    index = fields.integer("reference_image", "reference_image_index")
    try:
        request, by_size = sizes.parse(size, aspect_ratio, resolution, width, height, index), sizes.parse(size)
    except InvalidRequest as error:
        error.field = fields.written.get(error.field or "", error.field)
        raise
    exact = by_size.width is not None
    overruled = {
        "aspect_ratio": exact or width is not None or by_size.aspect_ratio is not None,
        "resolution": exact or width is not None or by_size.pixels is not None,
        "width": exact,
        "height": exact,
    }
    for name, ignored in overruled.items():
        _, value = fields.take(name)
        if ignored and value is not None and str(value).strip().lower() != "auto":
            fields.notice(name, "ignored", "The size that was given is more specific.")
    # Later notices about the shape or the scale name the parameter that gave it.
    of_size = {"aspect_ratio": by_size.aspect_ratio, "resolution": by_size.pixels}
    fields.written |= {name: fields.written["size"] for name, value in of_size.items() if value is not None}
    return request


def _read_acceleration(fields: Fields) -> Acceleration | None:
    """`acceleration`, or as other servers have it: `go_fast`."""
    word = fields.word("acceleration", tuple(a.value for a in Acceleration))
    go_fast = fields.boolean("go_fast")
    if word is not None:
        if go_fast is not None:
            fields.notice("go_fast", "ignored", "'acceleration' was given too and was used.")
        return Acceleration(word)
    if go_fast is None:
        return None
    fields.written["acceleration"] = "go_fast"
    return Acceleration.HIGH if go_fast else Acceleration.NONE


def _read_safety(fields: Fields) -> bool:
    """Whether the safety checker looks at the images; by default it does."""
    enable, disable = fields.boolean("enable_safety_checker"), fields.boolean("disable_safety_checker")
    if enable is not None and enable == disable:
        raise InvalidRequest(
            "'enable_safety_checker' and 'disable_safety_checker' contradict each other.",
            field="disable_safety_checker",
        )
    if disable is not None:
        fields.written["enable_safety_checker"] = "disable_safety_checker"
    return not disable if enable is None else enable


def _read_strict(fields: Fields, size_policy: str | None) -> bool:
    name, value = fields.take("strict")
    if value is None:
        name, value = "X-Param-Policy", size_policy
    if value is None or isinstance(value, bool):
        return bool(value)
    word = to_text(name, value).strip().lower()
    if word not in ("nearest", "error", "true", "false", "1", "0"):
        raise NotOneOf(name, word, ("nearest", "error"))
    return word in ("error", "true", "1")


def _read_loras(fields: Fields) -> tuple[Lora, ...]:
    """`loras`, or as other servers name one: `lora`, or `lora_weights` with `lora_scale`."""
    name, value = fields.take("loras", "loras", "lora", "lora_weights")
    scale_name, scale = fields.take("lora_scale")
    loras = () if value is None else parse_loras(name, value)
    if scale is not None:
        if name != "lora_weights" or len(loras) != 1:
            raise InvalidRequest("'lora_scale' goes with one path in 'lora_weights'.", field=scale_name)
        loras = (replace(loras[0], scale=parse_number(scale_name, scale)),)
        fields.written["loras[0].scale"] = scale_name
    if name != "loras":
        fields.written["loras[0].path"] = name
    return loras


def _read_stream(fields: Fields, output_format: OutputFormat) -> tuple[bool, int]:
    """Whether to answer with events, and how many partial images are among them, 0 to 3."""
    stream = bool(fields.boolean("stream"))
    partial_images = fields.integer("partial_images")
    if partial_images is not None and not 0 <= partial_images <= 3:
        raise OutOfRange("partial_images", partial_images, minimum=0, maximum=3)
    if partial_images and not stream:
        fields.notice("partial_images", "ignored", "Partial images are sent in a stream only; add 'stream'.")
    if stream and output_format not in _STREAMED_FORMATS:
        raise UnsupportedParameter(
            f"The output format '{output_format}' cannot be streamed; png, jpeg and webp can.", field="output_format"
        )
    return stream, partial_images or 0


# --- the model that runs it


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


# --- single values


class Fields:
    """The named values of one call.

    written: canonical name to the name the caller used. notices: parameters not used as written.
    """

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values
        self._read: set[str] = set()
        self.written: dict[str, str] = {}
        self.notices: list[Notice] = []

    def take(self, canonical: str, *names: str) -> tuple[str, object | None]:
        """(name, value) of the first of `names` that is present, or (canonical, None).

        Without `names` the name is the canonical one. Null, blank and the words for null are not present. A second
        alias beside the first is reported as ignored.
        """
        found: tuple[str, object | None] | None = None
        for name in names or (canonical,):
            self._read.add(name)
            value = self._values.get(name)
            if value is None or (isinstance(value, str) and value.strip() in _ABSENT_WORDS):
                continue
            if found is None:
                found = (name, value)
                self.written[canonical] = name
            elif value != found[1]:
                self.notice(name, "ignored", f"'{found[0]}' was given too and was used.")
        return found or (canonical, None)

    def exactly(self, name: str) -> object | None:
        """The value under `name` as it came, blank or not."""
        self._read.add(name)
        return self._values.get(name)

    def text(self, canonical: str, *names: str) -> str | None:
        name, value = self.take(canonical, *names)
        return None if value is None else to_text(name, value)

    def word(self, canonical: str, allowed: Sequence[str], *names: str) -> str | None:
        """One of `allowed`, in small letters."""
        name, value = self.take(canonical, *names)
        if value is None:
            return None
        word = to_text(name, value).strip().lower()
        if word not in allowed:
            raise NotOneOf(name, word, tuple(allowed))
        return word

    def integer(self, canonical: str, *names: str) -> int | None:
        name, value = self.take(canonical, *names)
        return None if value is None else to_integer(name, value)

    def number(self, canonical: str, *names: str) -> float | None:
        name, value = self.take(canonical, *names)
        return None if value is None else parse_number(name, _printable(value))

    def boolean(self, canonical: str, *names: str) -> bool | None:
        name, value = self.take(canonical, *names)
        return None if value is None else parse_boolean(name, _printable(value))

    def notice(self, parameter: str, action: str, detail: str) -> None:
        self.notices.append(Notice(parameter, action, detail))

    def unread(self) -> tuple[str, ...]:
        """Names that were not read, in the caller's order."""
        return tuple(name for name in self._values if name not in self._read)


def to_text(name: str, value: object) -> str:
    if isinstance(value, str):
        if "\0" in value:
            raise InvalidRequest(f"The field '{name}' holds a NUL character.", field=name)
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:g}" if isinstance(value, float) else str(value)
    raise InvalidType(name, "string", _printable(value))


def to_integer(name: str, value: object) -> int:
    """Whole numbers, also as `4.0`, `"4"` and `"4.0"`."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
        return int(value.strip().partition(".")[0])
    raise InvalidType(name, "integer", _printable(value))


def _printable(value: object) -> object:
    return "a file" if isinstance(value, bytes) else value


def _with_plain_line_ends(text: str) -> str:
    """JavaScript's forms turn line ends into CRLF, its streams and Python do not: one call, one prompt."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
