"""The table of public model ids: limits, defaults and prices. It knows no weights."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from retouch.edit import Acceleration, Notice, OutputFormat
from retouch.errors import ImageTooLarge


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

    def dollars(self, images: int, pixels: int) -> float:
        """The same in dollars to eight decimals, as vendors write it; differs from `of` by its rounding only."""
        flat, by_area = 100 * self.per_image_microusd * images, (self.per_megapixel_microusd * pixels + 5_000) // 10_000
        return (flat + by_area) / 100_000_000


class Checks(StrEnum):
    """What the safety checker looks at, and what a caller gets whose images are all flagged."""

    OUTPUT = "output"  #: outputs only; a flagged one is delivered in black and marked, as fal's own toolkit does
    INPUT_AND_OUTPUT = "input+output"  #: an error when an input or every output is flagged


@dataclass(frozen=True, slots=True)
class Model:
    """A public model id: what its callers may send. The numbers are the vendors' published ones.

    steps, guidance: limits, or None where the public model has no such parameter.
    advised_side: least side of an input image, in pixels, that the vendor takes; a smaller one is reported, as
    nothing here needs more. max_side, max_image_bytes: of an input image and its file. promises_steps: callers
    have read `steps.default` on the vendor's page, so another number of steps is reported. checkpoints: names of those
    it means, the best first; where none of them is loaded, the first loaded one serves it. max_loras: 0
    where the public model has no such parameter.
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
    checks: Checks = Checks.INPUT_AND_OUTPUT
    promises_steps: bool = False
    checkpoints: tuple[str, ...] = ()
    max_loras: int = 0

    def check_image(self, width: int, height: int, size_bytes: int, *, field: str) -> tuple[Notice, ...]:
        """Raise ImageTooLarge when an input image is more than this model takes; a notice when it is small."""
        seen = f"The image in '{field}' has {width} × {height} pixels"
        high, most = self.max_side, self.max_image_bytes
        if high is not None and max(width, height) > high:
            raise ImageTooLarge(
                f"{seen}; each side must be at most {high}.", field=field, max_width=high, max_height=high
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


FAL_EDIT_PRICE = Price(per_megapixel_microusd=30_000)
"""What fal's page of qwen-image-edit quotes: 0.03 US dollars a megapixel."""

FIRST = ("qwen-image-edit",)
PLUS = ("qwen-image-edit-2511", "qwen-image-edit-2509")
SECOND = ("qwen-image-2.1",)

FAL_LORA_PRICE = Price(per_megapixel_microusd=35_000)
"""What fal quotes for qwen-image-edit-2511/lora."""

MAX_LORAS = 3
"""As many as fal applies together."""

HOSTED_PRICE = Price(per_megapixel_microusd=20_000)
"""What the vendors' pages quote for this family: 0.02 US dollars a megapixel."""

MODELS: tuple[Model, ...] = (
    Model(
        "qwen-image-edit",
        checkpoints=FIRST,
        title="Qwen-Image-Edit: edit a picture by instruction",
        max_images=16,
        max_num_images=10,
        steps=Limits(1, 100, 30),
        guidance=Limits(0, 20, 4),
        max_loras=MAX_LORAS,
        price=HOSTED_PRICE,
        aliases=("Qwen/Qwen-Image-Edit",),
    ),
    Model(
        "qwen-image-edit-plus",
        checkpoints=PLUS,
        title="Qwen-Image-Edit-Plus: edit with several reference pictures",
        max_images=16,
        max_num_images=10,
        steps=Limits(1, 100, 40),
        guidance=Limits(0, 20, 4),
        max_loras=MAX_LORAS,
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
        checkpoints=SECOND,
        title="Qwen-Image-2: edit with up to six reference pictures",
        max_images=16,
        max_num_images=10,
        steps=Limits(1, 100, 40),
        guidance=Limits(0, 20, 4),
        max_loras=MAX_LORAS,
        price=HOSTED_PRICE,
        negative_prompt="",
    ),
    Model(
        "fal-ai/qwen-image-edit",
        checkpoints=FIRST,
        title="Qwen-Image-Edit as fal publishes it",
        max_images=1,
        max_num_images=4,
        steps=Limits(2, 50, 30),
        promises_steps=True,
        guidance=Limits(0, 20, 4),
        price=FAL_EDIT_PRICE,
        output_formats=(OutputFormat.JPEG, OutputFormat.PNG),
        checks=Checks.OUTPUT,
    ),
    Model(
        "fal-ai/qwen-image-edit-plus",
        checkpoints=PLUS,
        title="Qwen-Image-Edit-Plus as fal publishes it",
        max_images=6,
        max_num_images=4,
        steps=Limits(2, 100, 50),
        promises_steps=True,
        guidance=Limits(0, 20, 4),
        price=HOSTED_PRICE,
        output_formats=(OutputFormat.JPEG, OutputFormat.PNG, OutputFormat.WEBP),
        checks=Checks.OUTPUT,
    ),
    Model(
        "fal-ai/qwen-image-2/edit",
        checkpoints=SECOND,
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
    Model(
        "fal-ai/qwen-image-edit-lora",
        title="Qwen-Image-Edit with LoRAs as fal publishes it",
        max_images=1,
        max_num_images=4,
        steps=Limits(2, 50, 30),
        promises_steps=True,
        guidance=Limits(0, 20, 4),
        max_loras=MAX_LORAS,
        price=FAL_LORA_PRICE,
        output_formats=(OutputFormat.JPEG, OutputFormat.PNG),
        checks=Checks.OUTPUT,
        checkpoints=FIRST,
    ),
    Model(
        "fal-ai/qwen-image-edit-plus-lora",
        title="Qwen-Image-Edit-Plus with LoRAs as fal publishes it",
        max_images=6,
        max_num_images=4,
        steps=Limits(2, 50, 28),
        promises_steps=True,
        guidance=Limits(0, 20, 4),
        max_loras=MAX_LORAS,
        price=FAL_LORA_PRICE,
        output_formats=(OutputFormat.JPEG, OutputFormat.PNG, OutputFormat.WEBP),
        checks=Checks.OUTPUT,
        checkpoints=PLUS,
    ),
    Model(
        "fal-ai/qwen-image-edit-2511/lora",
        title="Qwen-Image-Edit-2511 with LoRAs as fal publishes it",
        max_images=6,
        max_num_images=4,
        steps=Limits(1, 50, 28),
        promises_steps=True,
        guidance=Limits(0, 20, 4),
        max_loras=MAX_LORAS,
        price=FAL_LORA_PRICE,
        output_formats=(OutputFormat.JPEG, OutputFormat.PNG, OutputFormat.WEBP),
        negative_prompt="",
        checks=Checks.OUTPUT,
        checkpoints=PLUS,
    ),
)


LOCAL_PREFIX = "local/"
"""Before an id: this server's own workers only, where edits may also go to hosted providers."""


def model_named(model_id: str) -> Model | None:
    """The row of a public id or of another name for it, whether or not anything serves it."""
    plain = model_id.removeprefix(LOCAL_PREFIX)
    return next((model for model in MODELS if plain == model.id or plain in model.aliases), None)


def checks_of(model_id: str) -> Checks:
    """What is checked for a public id; for one without a row, such as the command line's, everything."""
    model = model_named(model_id)
    return Checks.INPUT_AND_OUTPUT if model is None else model.checks
