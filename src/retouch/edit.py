"""What a caller wants, in the one form that every protocol is turned into.

Frozen values only: `EditRequest` (what to do), `Delivery` (how to answer), `EditSpec` (one image to make,
everything decided), `EditOutput` and `Usage` (done). What is true of every edit is checked here, in
`EditRequest.check`; a model's own limits are checked by its row in `catalog/`. This module does not
know HTTP, bytes of files, or pixels.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from retouch.errors import InvalidRequest, MissingParameter, OutOfRange, TooLong

MAX_PROMPT_CHARACTERS = 32_000
"""OpenAI's own limit; a model's row may be lower."""

MAX_SEED = 2**63 - 1

MAX_RETENTION_S = 10 * 365 * 86_400.0
"""Ten years: more is surely a mistake, and a date beyond the calendar would keep a job from ending."""


MAX_LORA_SCALE = 4.0
"""fal's and Replicate's own limit."""

MAX_LORA_PATH_CHARACTERS = 2_000

MAX_LORA_BYTES = 2 * 10**9
"""Of one file: rank 64 in the attention and MLPs of the large network has 0.85 GB in bfloat16, 1.7 GB in float32."""


class Acceleration(StrEnum):
    """How much exactness may be traded for time; fal's words."""

    NONE = "none"
    REGULAR = "regular"
    HIGH = "high"


class OutputFormat(StrEnum):
    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"
    AVIF = "avif"
    GIF = "gif"

    @property
    def media_type(self) -> str:
        return f"image/{self.value}"


@dataclass(frozen=True, slots=True)
class ImageInput:
    """One caller-given image: either bytes already stored as a blob, or a link still to be fetched.

    `field` is the canonical place it came from, such as `images[0]`, so that an error found later can
    point there. `owned`: the bytes came inside the request, so the blob goes when the job goes.
    """

    blob: str | None = None
    url: str | None = None
    field: str = "images[0]"
    owned: bool = False

    def __post_init__(self) -> None:
        assert (self.blob is None) != (self.url is None), "an image is either a blob or a link"


@dataclass(frozen=True, slots=True)
class Lora:
    """A low-rank adapter that the network is to run with.

    path: as its caller wrote it: an http(s) link, a repository of the hub (`owner/name`, or `owner/name/file`), or the
    name of a file in the operator's folder. scale: how strongly, 0 to 4; 0 is without it. blob: the file behind `path`,
    when that is a link to a file uploaded here.
    """

    path: str
    scale: float = 1.0
    blob: str | None = None

    def check(self, place: str) -> None:
        """Raise InvalidRequest for what no LoRA can be; place: its canonical field, such as `loras[0]`."""
        if not self.path.strip():
            raise MissingParameter(f"{place}.path")
        if len(self.path) > MAX_LORA_PATH_CHARACTERS:
            raise TooLong(f"{place}.path", len(self.path), MAX_LORA_PATH_CHARACTERS)
        if not self.path.isprintable():
            raise InvalidRequest(f"The field '{place}.path' holds characters that no path has.", field=f"{place}.path")
        if not (math.isfinite(self.scale) and 0 <= self.scale <= MAX_LORA_SCALE):
            raise OutOfRange(f"{place}.scale", self.scale, minimum=0, maximum=MAX_LORA_SCALE)


@dataclass(frozen=True, slots=True)
class SizeRequest:
    """What the caller wants of the size of the answer, not yet decided (see `sizes.py`).

    `width`, `height`: an exact size in pixels, both or neither.
    `aspect_ratio`: width / height, when only a shape was given.
    `pixels`: an area, when only a scale was given.
    `reference_image`: index of the input whose shape is followed; None means the rule of `sizes.py`.
    `like_reference`: that input's own size, not only its shape.
    `words`: the request as the caller wrote it, for the answer's metadata.
    """

    width: int | None = None
    height: int | None = None
    aspect_ratio: float | None = None
    pixels: int | None = None
    reference_image: int | None = None
    words: str = "auto"
    like_reference: bool = False


@dataclass(frozen=True, slots=True)
class Notice:
    """A parameter that was not used exactly as written, or whose effect may surprise.

    `action` is `ignored`, `converted`, `clamped`, `emulated` (done, but by the gateway and not by the provider),
    `applied` (used as written; says what it came to) or `advised` (used as written, but better otherwise); `detail` is
    one sentence for a human.
    """

    parameter: str
    action: str
    detail: str


@dataclass(frozen=True, slots=True)
class Expansion:
    """The prompt that is used instead of the caller's, decided once for a job.

    reason: why it is the caller's own after all, as a part of a sentence; empty when it was rewritten.
    """

    prompt: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class EditRequest:
    """One edit as its caller wants it. Fields left None are filled with defaults by `catalog.Route.complete`.

    model: id of a catalogue row. prompt: the instruction. images: 1 to 16, in the caller's order.
    mask: transparent (alpha 0) means "edit here". seed: of the first image; image i uses seed + i.
    steps: denoise steps. guidance_scale: strength of classifier-free guidance, 1 is off.
    output_quality: encoder quality from 0 to 100 for jpeg, webp and avif.
    strict: refuse a size that cannot be given exactly instead of taking the nearest. loras: applied together, in order.
    expansion: set by the first worker that rewrites the prompt, so that a later attempt uses the same words.
    upstream_options: what is passed on as it is, by kind of provider; only where one makes the edit.
    """

    model: str
    prompt: str
    images: tuple[ImageInput, ...]
    negative_prompt: str | None = None
    mask: ImageInput | None = None
    size: SizeRequest = field(default_factory=SizeRequest)
    seed: int | None = None
    num_images: int = 1
    steps: int | None = None
    guidance_scale: float | None = None
    acceleration: Acceleration | None = None
    output_format: OutputFormat = OutputFormat.PNG
    output_quality: int = 95
    enable_safety_checker: bool = True
    enable_prompt_expansion: bool = False
    strict: bool = False
    expansion: Expansion | None = None
    loras: tuple[Lora, ...] = ()
    upstream_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)

    @property
    def inputs(self) -> tuple[ImageInput, ...]:
        """The images, and the mask when there is one."""
        return self.images if self.mask is None else (*self.images, self.mask)

    @property
    def reference_index(self) -> int:
        """Which image's shape is followed: the one asked for, else the last, or the first when it is masked."""
        if self.size.reference_image is not None:
            return self.size.reference_image
        return 0 if self.mask is not None else len(self.images) - 1

    def check(self, *, image_count: int | None = None) -> None:
        """Raise InvalidRequest when something is wrong whatever the model is.

        image_count: how many input images there will be, for a request that has none of them yet.
        """
        count = len(self.images) if image_count is None else image_count
        if not self.prompt.strip():
            raise MissingParameter("prompt")
        if len(self.prompt) > MAX_PROMPT_CHARACTERS:
            raise TooLong("prompt", len(self.prompt), MAX_PROMPT_CHARACTERS)
        if not count:
            raise MissingParameter("images")
        reference = self.size.reference_image
        if reference is not None and not 0 <= reference < count:
            raise OutOfRange("reference_image", reference, minimum=0, maximum=count - 1)
        if self.seed is not None and not 0 <= self.seed <= MAX_SEED:
            raise OutOfRange("seed", self.seed, minimum=0, maximum=MAX_SEED)
        if not 0 <= self.output_quality <= 100:
            raise OutOfRange("output_quality", self.output_quality, minimum=0, maximum=100)
        for index, lora in enumerate(self.loras):
            lora.check(f"loras[{index}]")

    def to_json(self) -> dict[str, Any]:
        """The form a job row keeps; `from_json` gives back an equal value."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EditRequest:
        values = dict(data)
        values["images"] = tuple(ImageInput(**image) for image in data["images"])
        values["mask"] = None if data["mask"] is None else ImageInput(**data["mask"])
        values["size"] = SizeRequest(**data["size"])
        values["acceleration"] = None if data["acceleration"] is None else Acceleration(data["acceleration"])
        values["output_format"] = OutputFormat(data["output_format"])
        expansion = data.get("expansion")
        values["expansion"] = None if expansion is None else Expansion(**expansion)
        values["loras"] = tuple(Lora(**lora) for lora in data.get("loras", ()))
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A caller's own bucket in an S3-compatible store, where the image is put beside ours.

    prefix: what comes before the file's name, without slashes at its ends. It never prints its keys.
    """

    endpoint_url: str
    name: str
    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    prefix: str = ""

    def check(self, parameter: str) -> None:
        """Raise InvalidRequest naming `parameter` when no request could be made with this; repeats no value."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}", self.name):
            raise InvalidRequest(f"The bucket's name in '{parameter}' is not one.", field=parameter)
        if not re.fullmatch(r"https?://[A-Za-z0-9.\-_\[\]:]+/?", self.endpoint_url):
            raise InvalidRequest(
                f"The endpoint in '{parameter}' must be https://HOST, without a path or credentials.", field=parameter
            )
        if len(self.prefix) > 500 or not self.prefix.isprintable():
            raise InvalidRequest(f"The path in '{parameter}' has over 500 characters, or odd ones.", field=parameter)
        if len(self.access_key_id) > 500 or len(self.secret_access_key) > 500:
            raise InvalidRequest(f"The keys in '{parameter}' have more than 500 characters.", field=parameter)


@dataclass(frozen=True, slots=True)
class Delivery:
    """How the caller wants the answer; nothing here changes the image.

    protocol: name of the face, `openai`, `fal`, `runpod`. endpoint: the id as the caller wrote it.
    retention_s: life of the output files in seconds; None means the server's default.
    inline: answer with data URIs and keep no output files after delivery (fal's sync_mode).
    keep_payload: False forbids keeping input and output once delivered (fal's X-Fal-Store-IO: 0).
    previews: how many looks at the unfinished image the caller would like on the way.
    into_bucket: the caller gave a bucket for the image (`jobs/caller_buckets.py`).
    options: face-specific words needed to write the answer later, such as `response_format`.
    """

    protocol: str
    endpoint: str
    webhook_url: str | None = None
    retention_s: float | None = None
    inline: bool = False
    keep_payload: bool = True
    previews: int = 0
    into_bucket: bool = False
    options: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Raise InvalidRequest when no job could be delivered like this."""
        if self.webhook_url is not None and not (self.webhook_url.isascii() and self.webhook_url.isprintable()):
            raise InvalidRequest("The webhook's address may hold printable ASCII characters only.", field="webhook_url")
        if self.retention_s is not None and not 0 <= self.retention_s <= MAX_RETENTION_S:
            raise OutOfRange("retention_s", self.retention_s, minimum=0, maximum=MAX_RETENTION_S)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "options": dict(self.options)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Delivery:
        return cls(**data)


@dataclass(frozen=True, slots=True)
class LoraFile:
    """A LoRA on this machine, as the engine takes it.

    name: as its caller wrote it, and field: the canonical place, both for errors. size_bytes: of the file.
    """

    file: Path
    scale: float
    name: str
    field: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class EditSpec:
    """One image to make, everything decided; what the engine takes beside the pixels.

    width, height: the canvas in pixels, multiples of 16. seed: of this image. steps: at least 1.
    negative_prompt is used only when guidance_scale > 1. expected inputs: uint8 RGB pixels.
    region: which tokens of 16 x 16 pixels may change, see `engine/region.py`, or None for all. loras: applied together.
    """

    prompt: str
    width: int
    height: int
    seed: int
    steps: int
    guidance_scale: float = 1.0
    negative_prompt: str = " "
    acceleration: Acceleration = Acceleration.NONE
    region: bytes | None = None
    loras: tuple[LoraFile, ...] = ()


@dataclass(frozen=True, slots=True)
class OutputImage:
    """One finished image. unsafe: None when nothing was checked. delivered_url: where it is in the caller's bucket."""

    blob: str
    width: int
    height: int
    media_type: str
    size_bytes: int
    seed: int
    unsafe: bool | None = None
    delivered_url: str | None = None


@dataclass(frozen=True, slots=True)
class EditOutput:
    """The images of a succeeded job, in order, and how they were made.

    prompt: the one that was used. timings: seconds by stage name (`stage_in`, `prepare`, `denoise`,
    `decode`, `stage_out`, `inference`). canvas: width and height the model worked at. applied: what was
    really done where the request left a choice, such as `acceleration`.
    """

    images: tuple[OutputImage, ...]
    prompt: str
    timings: Mapping[str, float]
    canvas: tuple[int, int]
    notices: tuple[Notice, ...] = ()
    applied: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "timings": dict(self.timings), "applied": dict(self.applied)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EditOutput:
        return cls(
            images=tuple(OutputImage(**image) for image in data["images"]),
            prompt=data["prompt"],
            timings=dict(data["timings"]),
            canvas=(data["canvas"][0], data["canvas"][1]),
            notices=tuple(Notice(**notice) for notice in data["notices"]),
            applied=dict(data["applied"]),
        )


@dataclass(frozen=True, slots=True)
class Usage:
    """What a job used, as the ledger counts it. Money is whole millionths of a US dollar.

    images: images made. pixels: their area in all. steps: denoise steps run, all images together.
    device_ms: time of the device, not of waiting.
    """

    images: int
    pixels: int
    steps: int
    device_ms: int
    price_microusd: int = 0


SMALL_SEEDS = 2**31
"""Seeds below this stay below it for every image, because some clients hold 31 bits only."""


def seed_of_image(seed: int, index: int) -> int:
    """The seed of image `index`: they count up from the request's and wrap at the end of its range."""
    return (seed + index) % (SMALL_SEEDS if seed < SMALL_SEEDS else MAX_SEED + 1)


def random_seed() -> int:
    """A seed for a request that has none: 0 to 2**31 - 1, the range every client can hold."""
    return secrets.randbelow(2**31)
