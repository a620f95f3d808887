"""The fal endpoints as one table: what may be sent, with which default, within which limits.

The table is read by `parse.py` to check a body, by `errors.py` to name a field as its caller wrote it, and by
`api_docs.py` to describe the endpoints. Numbers come from the catalogue's rows. Nothing here reads a request.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from retouch.catalog import MODELS, QWEN_SIZES, Limits, Model
from retouch.edit import MAX_LORA_SCALE, OutputFormat
from retouch.sizes import NAMED_SIZES


class Kind(Enum):
    """What a value must be; the word is the one the reference uses."""

    STRING = "string"
    INTEGER = "integer"
    NUMBER = "float"
    BOOLEAN = "boolean"
    WORD = "enum"
    LINK = "string (URL)"
    LINKS = "list<string> (URLs)"
    IMAGE_SIZE = "ImageSize | enum"
    LORAS = "list<LoraWeight>"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One input field.

    name: as on the wire. canonical: the field of `EditRequest` it fills. minimum, maximum: of a number, or of the
    scale of a LoRA. min_length, max_length: characters of a string, entries of a list. choices: the words of an enum
    that are published; also: further words that are taken. default None: absent means what `description` says.
    by_model: the default is the model row's; the catalogue fills it in, so that a distilled checkpoint can
    use its own.
    min_pixels, max_pixels: area of a size given as an object.
    """

    name: str
    canonical: str
    kind: Kind
    description: str
    required: bool = False
    default: str | int | float | bool | None = None
    minimum: float | None = None
    maximum: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    choices: tuple[str, ...] = ()
    also: Mapping[str, str] | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    example: str | int | float | tuple[str, ...] | None = None
    by_model: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint id and its schema.

    app: the id without a path behind owner and alias; status, result and cancel live under it. parameters: by name.
    output: the keys of the answer, in order. image_keys: the keys of each image in it. keeps_size: an answer
    whose size was not asked for is as large as the last input, not only of its shape.
    """

    id: str
    app: str
    title: str
    model: Model
    parameters: Mapping[str, Parameter]
    output: tuple[str, ...]
    image_keys: tuple[str, ...]
    keeps_size: bool = False

    def location(self, canonical: str) -> tuple[str | int, ...]:
        """Where in the body the canonical field came from: `images[1]` is `("image_urls", 1)`."""
        match = _CANONICAL.fullmatch(canonical)
        assert match is not None, "it takes any text"
        name, index, below = match.groups()
        if name in ("width", "height", "aspect_ratio", "resolution"):
            name = "size"
        parameter = next((p for p in self.parameters.values() if p.canonical == name), None)
        if parameter is None:
            return () if name == "model" else (name,)
        if parameter.kind in (Kind.LINKS, Kind.LORAS) and index is not None:
            return (parameter.name, int(index), *((below,) if below else ()))
        return (parameter.name,)

    def wire_name(self, canonical: str) -> str:
        """The field as its caller wrote it: `images[1]` is `image_urls.1`."""
        return ".".join(str(part) for part in self.location(canonical)) or canonical


_CANONICAL = re.compile(r"([^\[]*)(?:\[(\d+)\])?(?:\.(\w+))?.*", re.DOTALL)

PRESET_ALIASES: Mapping[str, str] = {"portrait_3_4": "portrait_4_3", "portrait_9_16": "portrait_16_9"}
"""How a reseller's page spells two of the named sizes."""

PRESETS = tuple(name for name in NAMED_SIZES if name not in PRESET_ALIASES)

MAX_SIDE = 14_142
"""The vendor's own limit for one side of an image size, in pixels."""
DEFAULT_SIDE = 512
"""The vendor's own default for a side that an image size leaves out."""

IMAGE_KEYS = ("url", "content_type", "file_name", "file_size", "width", "height")
FILE_KEYS = ("url", "content_type", "file_name", "file_size")


def _number(name: str, canonical: str, kind: Kind, limits: Limits, description: str) -> Parameter:
    default = int(limits.default) if kind is Kind.INTEGER else limits.default
    low, high = limits.minimum, limits.maximum
    return Parameter(name, canonical, kind, description, default=default, minimum=low, maximum=high, by_model=True)


def _parameters(model: Model, *, size_default: str | None, size_absent: str, expansion: bool) -> Iterator[Parameter]:
    """What the endpoint of a model takes, in the order of its pages.

    size_absent: a sentence on the size of an answer that names none. expansion: a prompt may be rewritten, and there is
    no acceleration to choose.
    """
    characters = model.max_prompt_characters
    example = "make the sky pink"
    yield Parameter(
        "prompt", "prompt", Kind.STRING, "The instruction.", required=True, max_length=characters, example=example
    )
    link = "https://example.com/photo.png"
    if model.max_images == 1:
        description = "The picture to edit: an http(s) link or a data URI."
        yield Parameter("image_url", "images", Kind.LINK, description, required=True, example=link)
    else:
        description = (
            "The pictures to edit, as http(s) links or data URIs; the instruction may call them image 1, image 2, …"
        )
        if model.max_image_bytes is not None:
            description += f" Each side up to {model.max_side} pixels, better {model.advised_side} or more; "
            description += f"each file up to {model.max_image_bytes // 1_000_000} MB."
        yield Parameter(
            "image_urls",
            "images",
            Kind.LINKS,
            description,
            required=True,
            min_length=1,
            max_length=model.max_images,
            example=(link,),
        )
    bounded = model.id == "fal-ai/qwen-image-2/edit"
    yield Parameter(
        "image_size",
        "size",
        Kind.IMAGE_SIZE,
        f"Size of the answer: a name or {{width, height}} in pixels. {size_absent}",
        default=size_default,
        maximum=MAX_SIDE,
        choices=PRESETS,
        also=PRESET_ALIASES,
        min_pixels=QWEN_SIZES.min_area if bounded else None,
        max_pixels=QWEN_SIZES.max_area if bounded else None,
    )
    if model.steps is not None:
        yield _number("num_inference_steps", "steps", Kind.INTEGER, model.steps, "Denoise steps.")
    if model.guidance is not None:
        description = "How closely to follow the words."
        yield _number("guidance_scale", "guidance_scale", Kind.NUMBER, model.guidance, description)
    description = "The same request with the same seed gives the same picture; random when absent, and reported."
    yield Parameter("seed", "seed", Kind.INTEGER, description, minimum=0, maximum=model.max_seed)
    description = "Answer with data URIs and keep no output file."
    yield Parameter("sync_mode", "inline", Kind.BOOLEAN, description, default=False)
    description = "How many pictures to make; each has the next seed."
    most = model.max_num_images
    yield Parameter("num_images", "num_images", Kind.INTEGER, description, default=1, minimum=1, maximum=most)
    description = "Check the pictures. Where no checker is installed the answer says so."
    yield Parameter("enable_safety_checker", "enable_safety_checker", Kind.BOOLEAN, description, default=True)
    yield Parameter(
        "output_format",
        "output_format",
        Kind.WORD,
        "File format of the answer.",
        default="png",
        choices=tuple(f.value for f in model.output_formats),
        also={"jpg": OutputFormat.JPEG.value},
    )
    yield Parameter(
        "negative_prompt",
        "negative_prompt",
        Kind.STRING,
        "What the picture should not show.",
        default=model.negative_prompt,
        max_length=model.max_negative_prompt_characters,
        example="blurry, ugly",
        by_model=True,
    )
    if expansion:
        description = "Let a language model rewrite the instruction. Where none is installed the answer says so."
        yield Parameter("enable_prompt_expansion", "enable_prompt_expansion", Kind.BOOLEAN, description, default=True)
    else:
        yield Parameter(
            "acceleration",
            "acceleration",
            Kind.WORD,
            "How much exactness may be traded for time.",
            default=model.acceleration.value,
            choices=tuple(a.value for a in model.accelerations),
            by_model=True,
        )
    if model.max_loras:
        yield Parameter(
            "loras",
            "loras",
            Kind.LORAS,
            "LoRAs to apply together, each `{path, scale}`. path: an http(s) link to a safetensors file, a repository "
            "of the hub (owner/name or owner/name/file.safetensors), or a file in this server's folder of LoRAs.",
            minimum=0,
            maximum=MAX_LORA_SCALE,
            max_length=model.max_loras,
        )


def _endpoint(
    name: str, size_absent: str, *, size_default: str | None = None, expansion: bool = False, keeps_size: bool = False
) -> Endpoint:
    model = next(model for model in MODELS if model.id == name)
    parameters = _parameters(model, size_default=size_default, size_absent=size_absent, expansion=expansion)
    return Endpoint(
        id=name,
        app="/".join(name.split("/")[:2]),
        title=model.title,
        model=model,
        parameters={parameter.name: parameter for parameter in parameters},
        output=("images", "seed") if expansion else ("images", "timings", "seed", "has_nsfw_concepts", "prompt"),
        image_keys=FILE_KEYS if expansion else IMAGE_KEYS,
        keeps_size=keeps_size,
    )


_SHAPE_OF_INPUT = "When absent, the shape of the input."
_SIZE_OF_LAST_INPUT = "When absent, the size of the last input."

ENDPOINTS: Mapping[str, Endpoint] = {
    endpoint.id: endpoint
    for endpoint in (
        _endpoint("fal-ai/qwen-image-edit", _SHAPE_OF_INPUT),
        _endpoint("fal-ai/qwen-image-edit-plus", "", size_default="square_hd"),
        _endpoint("fal-ai/qwen-image-2/edit", _SIZE_OF_LAST_INPUT, keeps_size=True, expansion=True),
        _endpoint("fal-ai/qwen-image-edit-lora", _SHAPE_OF_INPUT),
        _endpoint("fal-ai/qwen-image-edit-plus-lora", _SIZE_OF_LAST_INPUT, keeps_size=True),
        _endpoint("fal-ai/qwen-image-edit-2511/lora", _SIZE_OF_LAST_INPUT, keeps_size=True),
    )
}
