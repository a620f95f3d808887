"""The table of models: what callers may ask for, what can be loaded, and which serves which.

A `Model` is a public id with its limits, defaults and price. A `Checkpoint` is a set of weights with the
sizes and areas it was made for. `Catalog` routes the first to the second. Nothing here loads anything.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from retouch.edit import Acceleration, EditRequest, Notice, OutputFormat, Usage, random_seed
from retouch.errors import (
    ImageTooLarge,
    InvalidRequest,
    NotOneOf,
    OutOfRange,
    TooLong,
    TooManyImages,
    UnknownModel,
)
from retouch.sizes import SizeProfile

K1 = 1024 * 1024
"""One megapixel as the vendors count it: the area of 1024 by 1024."""


@dataclass(frozen=True, slots=True)
class Limits:
    """A number's range and the value an absent one takes."""

    minimum: float
    maximum: float
    default: float


@dataclass(frozen=True, slots=True)
class Price:
    """What an edit costs in whole millionths of a US dollar; a flat part per image and one per megapixel."""

    per_image_microusd: int = 0
    per_megapixel_microusd: int = 0

    def of(self, images: int, pixels: int) -> int:
        """Price of `images` images with `pixels` in all; a megapixel is 1,000,000 pixels, rounded half up."""
        return self.per_image_microusd * images + (self.per_megapixel_microusd * pixels + 500_000) // 1_000_000


@dataclass(frozen=True, slots=True)
class Model:
    """A public model id: what its callers may send. The numbers are the vendors' published ones.

    steps, guidance: limits, or None where the public model has no such parameter.
    advised_side: least side of an input image, in pixels, that the vendor takes; a smaller one is reported, as
    nothing here needs more. max_side, max_image_bytes: of an input image and its file.
    """

    id: str
    title: str
    max_images: int
    max_num_images: int
    steps: Limits | None
    guidance: Limits | None
    price: Price
    output_formats: tuple[OutputFormat, ...] = tuple(OutputFormat)
    accelerations: tuple[Acceleration, ...] = tuple(Acceleration)
    acceleration: Acceleration = Acceleration.REGULAR
    negative_prompt: str = " "
    max_prompt_characters: int = 32_000
    max_negative_prompt_characters: int = 32_000
    max_seed: int = 2**63 - 1
    advised_side: int | None = None
    max_side: int | None = None
    max_image_bytes: int | None = None
    aliases: tuple[str, ...] = ()

    def check_image(self, width: int, height: int, size_bytes: int, *, field: str) -> tuple[Notice, ...]:
        """Raise ImageTooLarge when an input image is more than this model takes; a notice when it is small."""
        shown = f"The image in '{field}' has {width} × {height} pixels"
        high, most = self.max_side, self.max_image_bytes
        if high is not None and max(width, height) > high:
            raise ImageTooLarge(
                f"{shown}; each side must be at most {high}.", field=field, max_width=high, max_height=high
            )
        if most is not None and size_bytes > most:
            raise ImageTooLarge(
                f"The image in '{field}' has {size_bytes} bytes; at most {most} are allowed.",
                field=field,
                max_bytes=most,
            )
        if self.advised_side is not None and min(width, height) < self.advised_side:
            detail = f"It has {width} × {height} pixels; {self.advised_side} or more a side are advised."
            return (Notice(field, "converted", detail),)
        return ()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights that can be loaded.

    name: as `--model` takes it, and the name of the queue its workers lease from. source: hub id, a
    folder, or None for the package's own demo checkpoint. looks_at: how many of the first input images
    have an effect, None for all; more are answered with a notice. reference_area: pixels every reference
    is resized to for the VAE, in its own shape; references_fit_canvas: they are resized to the canvas
    instead, for a network that was trained with both on one grid. vision_area: the same for the language
    model's eyes. distilled: trained to run without classifier-free guidance, so guidance and negative
    prompt do nothing and are reported as converted. full_precision: runs in float32 on a GPU too, where
    others run in bfloat16. research_only: the licence forbids commercial use; the operator must accept it
    by name.
    """

    name: str
    source: str | None
    sizes: SizeProfile
    max_images: int
    steps: int
    guidance_scale: float
    looks_at: int | None = None
    reference_area: int = K1
    references_fit_canvas: bool = False
    vision_area: int = 384 * 384
    max_prompt_tokens: int = 1024
    distilled: bool = False
    full_precision: bool = False
    research_only: bool = False
    licence: str = "Apache-2.0"


QWEN_SIZES = SizeProfile(
    tiers=(512 * 512, K1, 2048 * 2048),
    default_area=K1,
    min_area=512 * 512,
    max_area=2048 * 2048,
    max_output_area=2048 * 2048,
)
"""Profile F of the size rules: free ratios from 1:4 to 4:1 on the model's own grid."""

DEMO_SIZES = SizeProfile(
    tiers=(128 * 128, 256 * 256, 512 * 512),
    default_area=512 * 512,
    min_area=128 * 128,
    max_area=528 * 528,  # room to round both sides up, so that the default area keeps an image's shape
    max_output_area=2048 * 2048,
    derived_grid=16,
)

NULL_SIZES = replace(DEMO_SIZES, default_area=256 * 256, max_area=2048 * 2048)

CHECKPOINTS: tuple[Checkpoint, ...] = (
    Checkpoint(
        "demo",
        source=None,
        sizes=DEMO_SIZES,
        max_images=6,
        steps=4,
        guidance_scale=1.0,
        looks_at=2,
        references_fit_canvas=True,
        vision_area=64 * 64,
        distilled=True,
        full_precision=True,  # its encoder lifts numbers by 1024, and bfloat16 has eight bits
    ),
    Checkpoint(
        "qwen-image-edit",
        source="Qwen/Qwen-Image-Edit",
        sizes=QWEN_SIZES,
        max_images=1,
        steps=50,
        guidance_scale=4.0,
        vision_area=K1,
    ),
    Checkpoint(
        "qwen-image-edit-2509",
        source="Qwen/Qwen-Image-Edit-2509",
        sizes=QWEN_SIZES,
        max_images=4,
        steps=40,
        guidance_scale=4.0,
    ),
    Checkpoint(
        "qwen-image-edit-2511",
        source="Qwen/Qwen-Image-Edit-2511",
        sizes=QWEN_SIZES,
        max_images=4,
        steps=40,
        guidance_scale=4.0,
    ),
    Checkpoint(
        "qwen-image-2.1",
        source="Qwen/Qwen-Image-2.1",
        sizes=QWEN_SIZES,
        max_images=10,
        steps=40,
        guidance_scale=1.0,
        distilled=True,
        research_only=True,
        licence="Qwen Research License",
    ),
    # For measurements: echoes the first image, so that what is around a model can be timed without one.
    Checkpoint("null", source=None, sizes=NULL_SIZES, max_images=16, steps=4, guidance_scale=1.0, distilled=True),
)

FAL_EDIT_PRICE = Price(per_megapixel_microusd=30_000)
"""What fal's page of qwen-image-edit quotes: 0.03 US dollars a megapixel."""

HOSTED_PRICE = Price(per_megapixel_microusd=20_000)
"""What the vendors' pages quote for this family: 0.02 US dollars a megapixel."""

MODELS: tuple[Model, ...] = (
    Model(
        "qwen-image-edit",
        title="Qwen-Image-Edit: edit a picture by instruction",
        max_images=16,
        max_num_images=10,
        steps=Limits(1, 100, 30),
        guidance=Limits(0, 20, 4),
        price=HOSTED_PRICE,
        aliases=("Qwen/Qwen-Image-Edit",),
    ),
    Model(
        "qwen-image-edit-plus",
        title="Qwen-Image-Edit-Plus: edit with several reference pictures",
        max_images=16,
        max_num_images=10,
        steps=Limits(1, 100, 40),
        guidance=Limits(0, 20, 4),
        price=HOSTED_PRICE,
        aliases=(
            "Qwen/Qwen-Image-Edit-2509",
            "Qwen/Qwen-Image-Edit-2511",
            "qwen-image-edit-2509",
            "qwen-image-edit-2511",
        ),
    ),
    Model(
        "qwen-image-2",
        title="Qwen-Image-2: edit with up to six reference pictures",
        max_images=16,
        max_num_images=10,
        steps=Limits(1, 100, 40),
        guidance=Limits(0, 20, 4),
        price=HOSTED_PRICE,
        negative_prompt="",
    ),
    Model(
        "fal-ai/qwen-image-edit",
        title="Qwen-Image-Edit as fal publishes it",
        max_images=1,
        max_num_images=4,
        steps=Limits(2, 50, 30),
        guidance=Limits(0, 20, 4),
        price=FAL_EDIT_PRICE,
        output_formats=(OutputFormat.JPEG, OutputFormat.PNG),
    ),
    Model(
        "fal-ai/qwen-image-edit-plus",
        title="Qwen-Image-Edit-Plus as fal publishes it",
        max_images=6,
        max_num_images=4,
        steps=Limits(2, 100, 50),
        guidance=Limits(0, 20, 4),
        price=HOSTED_PRICE,
        output_formats=(OutputFormat.JPEG, OutputFormat.PNG, OutputFormat.WEBP),
    ),
    Model(
        "fal-ai/qwen-image-2/edit",
        title="Qwen-Image-2 editing as fal publishes it",
        max_images=6,
        max_num_images=4,
        steps=None,
        guidance=None,
        price=HOSTED_PRICE,
        output_formats=(OutputFormat.JPEG, OutputFormat.PNG, OutputFormat.WEBP),
        negative_prompt="",
        max_prompt_characters=800,
        max_negative_prompt_characters=500,
        max_seed=2**31 - 1,
        advised_side=384,
        max_side=5000,
        max_image_bytes=10_000_000,
    ),
)


@dataclass(frozen=True, slots=True)
class Route:
    """A model id and the checkpoint that serves it here."""

    model: Model
    checkpoint: Checkpoint

    @property
    def queue(self) -> str:
        return self.checkpoint.name

    def check(self, request: EditRequest, *, image_count: int | None = None) -> None:
        """Raise InvalidRequest when this model does not take `request`.

        image_count: how many input images there will be, for a request that has none of them yet.
        """
        request.check(image_count=image_count)
        self._check_limits(request, len(request.images) if image_count is None else image_count)

    def complete(
        self, request: EditRequest, *, image_count: int | None = None
    ) -> tuple[EditRequest, tuple[Notice, ...]]:
        """Check `request` and fill its open fields; image_count as for `check`.

        Returns the request with seed, steps, guidance_scale, negative_prompt and acceleration set, and
        a notice for each parameter that will not be used as written. Raises InvalidRequest.
        """
        self.check(request, image_count=image_count)
        checkpoint, model = self.checkpoint, self.model
        steps, guidance, negative = request.steps, request.guidance_scale, request.negative_prompt
        if steps is None:
            public = None if checkpoint.distilled else model.steps
            steps = checkpoint.steps if public is None else int(public.default)
        if checkpoint.distilled:
            guidance = 1.0
        elif guidance is None:
            guidance = model.guidance.default if model.guidance else checkpoint.guidance_scale
        completed = replace(
            request,
            seed=random_seed() if request.seed is None else request.seed,
            steps=steps,
            guidance_scale=guidance,
            negative_prompt=model.negative_prompt if negative is None else negative,
            acceleration=request.acceleration or model.acceleration,
        )
        return completed, tuple(self._notices(request, len(request.images) if image_count is None else image_count))

    def _notices(self, request: EditRequest, image_count: int) -> Iterator[Notice]:
        """One for each parameter that was given and will not be used as written."""
        checkpoint, guidance = self.checkpoint, request.guidance_scale
        if checkpoint.distilled:
            without = f"'{checkpoint.name}' is distilled and runs without guidance"
            if guidance is not None and guidance > 1:
                yield Notice("guidance_scale", "converted", f"{without}: 1 was used, not {guidance:g}.")
            if request.negative_prompt is not None and request.negative_prompt.strip():
                yield Notice("negative_prompt", "ignored", f"{without}: nothing reads it.")
        if checkpoint.looks_at is not None and image_count > checkpoint.looks_at:
            detail = f"'{checkpoint.name}' looks at the first {checkpoint.looks_at} of {image_count} images only."
            yield Notice("images", "ignored", detail)
        if request.acceleration not in (None, Acceleration.NONE):
            yield Notice(
                "acceleration", "converted", "There is no faster way here yet: the exact one, 'none', was used."
            )

    def _check_limits(self, request: EditRequest, image_count: int) -> None:
        model = self.model
        if len(request.prompt) > model.max_prompt_characters:
            raise TooLong("prompt", len(request.prompt), model.max_prompt_characters)
        negative = request.negative_prompt or ""
        if len(negative) > model.max_negative_prompt_characters:
            raise TooLong("negative_prompt", len(negative), model.max_negative_prompt_characters)
        max_images = min(model.max_images, self.checkpoint.max_images)
        if image_count > max_images:
            raise TooManyImages("images", image_count, max_images, model.id)
        _check_range("num_images", request.num_images, Limits(1, model.max_num_images, 1))
        _check_range("steps", request.steps, model.steps)
        _check_range("guidance_scale", request.guidance_scale, model.guidance)
        if request.seed is not None and request.seed > model.max_seed:
            raise OutOfRange("seed", request.seed, minimum=0, maximum=model.max_seed)
        if request.output_format not in model.output_formats:
            raise NotOneOf("output_format", request.output_format.value, tuple(f.value for f in model.output_formats))
        if request.acceleration is not None and request.acceleration not in model.accelerations:
            raise NotOneOf("acceleration", request.acceleration.value, tuple(a.value for a in model.accelerations))

    def price_microusd(self, usage: Usage) -> int:
        return self.model.price.of(usage.images, usage.pixels)


def _check_range(field: str, value: float | None, limits: Limits | None) -> None:
    if value is None or limits is None:
        return
    if not limits.minimum <= value <= limits.maximum:
        raise OutOfRange(field, value, minimum=limits.minimum, maximum=limits.maximum)


def model_named(model_id: str) -> Model | None:
    """The row of a public id, whether or not anything serves it."""
    return next((model for model in MODELS if model.id == model_id), None)


class Catalog:
    """Which model ids exist here and which checkpoint serves each."""

    def __init__(self, routes: Mapping[str, Route]) -> None:
        self._routes = dict(routes)

    @classmethod
    def serving(cls, *checkpoints: Checkpoint) -> Catalog:
        """Serve every model id with the checkpoint of that name, or else with the first one given."""
        by_name = {checkpoint.name: checkpoint for checkpoint in checkpoints}
        return cls({m.id: Route(m, by_name.get(m.id, checkpoints[0])) for m in MODELS})

    def route(self, model_id: str) -> Route:
        """The route of a public id; raises UnknownModel with a suggestion."""
        route = self._routes.get(model_id)
        if route is not None:
            return route
        for candidate in self._routes.values():
            if model_id in candidate.model.aliases:
                return candidate
        near = difflib.get_close_matches(model_id, self._routes, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else f" There are: {', '.join(self._routes)}."
        raise UnknownModel(f"There is no model '{model_id[:100]}' here.{hint}", field="model")

    @property
    def routes(self) -> tuple[Route, ...]:
        return tuple(self._routes.values())

    @property
    def queues(self) -> tuple[str, ...]:
        """Names of the queues that some model id leads to."""
        return tuple(dict.fromkeys(route.queue for route in self._routes.values()))


def checkpoint_named(name: str, *, accept_research_licence: bool = False) -> Checkpoint:
    """The checkpoint of that name, or one for a local folder of a Qwen-Image-Edit model.

    Raises InvalidRequest for an unknown name, and for research weights unless they were accepted.
    """
    for checkpoint in CHECKPOINTS:
        if name in (checkpoint.name, checkpoint.source):
            if checkpoint.research_only and not accept_research_licence:
                raise InvalidRequest(
                    f"'{name}' is under the {checkpoint.licence}: research and evaluation only. "
                    "Pass --accept-research-licence if that is what you do.",
                    field="model",
                )
            return checkpoint
    if "/" in name or name.startswith("."):
        return replace(checkpoint_named("qwen-image-edit-2511"), name=name.rstrip("/").rsplit("/", 1)[-1], source=name)
    names = ", ".join(checkpoint.name for checkpoint in CHECKPOINTS)
    raise InvalidRequest(f"There is no checkpoint '{name}'. There are: {names}, or a path to a folder.", field="model")
