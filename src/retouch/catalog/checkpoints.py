"""The table of weights that can be loaded, with the sizes and areas they were made for. It knows no public ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from retouch.errors import InvalidRequest
from retouch.sizes import SizeProfile

K1 = 1024 * 1024
"""One megapixel as the vendors count it: the area of 1024 by 1024."""


@dataclass(frozen=True, slots=True)
class FastLora:
    """A LoRA that an operator has chosen for `high`: where it is, and how many steps it was made for."""

    path: str
    steps: int


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
    by name. speaks: its text encoder is a whole language model that can answer in words.
    advised_images: how many it is at its best with; more are used and answered with a notice.
    max_prompt_tokens: of the instruction, and as many of the negative prompt. seed_matters: whether another
    seed gives another image. faster_steps: steps of `regular` and of `high` where the caller names none, for a
    network whose few steps are nearly as good. block_cache: `regular` and `high` may reuse its blocks over steps,
    see `engine/pipelines/acceleration.py`. knows: every edit of a network with a closed list; an instruction that
    asks for none of them is answered with a notice that names them. takes_loras: whether edits may name LoRAs.
    fast_lora: runs at `high` with steps of its own and without guidance; the operator's, never in this table.
    """

    name: str
    source: str | None
    sizes: SizeProfile
    max_images: int
    steps: int
    guidance_scale: float
    looks_at: int | None = None
    advised_images: int | None = None
    seed_matters: bool = True
    faster_steps: tuple[int, int] | None = None
    block_cache: bool = False
    knows: tuple[str, ...] = ()
    reference_area: int = K1
    references_fit_canvas: bool = False
    vision_area: int = 384 * 384
    max_prompt_tokens: int = 2400  # 800 characters of three bytes each, none of them merged
    distilled: bool = False
    full_precision: bool = False
    research_only: bool = False
    speaks: bool = True
    takes_loras: bool = True
    fast_lora: FastLora | None = None
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

HOSTED = Checkpoint(
    "gateway",
    source=None,
    sizes=QWEN_SIZES,
    max_images=16,
    steps=30,
    guidance_scale=4.0,
)
"""Stands for the weights of a hosted provider, which are not known: the gateway's queue, and sizes to guess by."""

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
        seed_matters=False,
        faster_steps=(2, 1),
        knows=(
            "make it grayscale",
            "invert the colours",
            "make it brighter",
            "make it darker",
            "more contrast",
            "less contrast",
            "make it warmer",
            "make it cooler",
            "make it sepia",
            "more saturation",
            "swap red and blue",
            "posterise it",
            "add a vignette",
            "tint it blue",
            "blur it",
            "sharpen it",
            "pixelate it",
            "mirror it",
            "flip it upside down",
            "turn it by 180 degrees",
            "add a white border",
            "add a red square in the middle",
            "use the colours of the second picture",
        ),
        max_prompt_tokens=3200,  # its tokenizer merges no Chinese and no emoji: 800 characters of four bytes
        references_fit_canvas=True,
        vision_area=64 * 64,
        distilled=True,
        full_precision=True,  # its encoder lifts numbers by 1024, and bfloat16 has eight bits
        speaks=False,
    ),
    Checkpoint(
        "qwen-image-edit",
        source="Qwen/Qwen-Image-Edit",
        sizes=QWEN_SIZES,
        max_images=1,
        steps=50,
        guidance_scale=4.0,
        vision_area=K1,
        block_cache=True,
    ),
    Checkpoint(
        "qwen-image-edit-2509",
        source="Qwen/Qwen-Image-Edit-2509",
        sizes=QWEN_SIZES,
        max_images=6,
        advised_images=3,
        block_cache=True,
        steps=40,
        guidance_scale=4.0,
    ),
    Checkpoint(
        "qwen-image-edit-2511",
        source="Qwen/Qwen-Image-Edit-2511",
        sizes=QWEN_SIZES,
        max_images=6,
        advised_images=3,
        block_cache=True,
        steps=40,
        guidance_scale=4.0,
    ),
    Checkpoint(
        "qwen-image-2.1",
        source="Qwen/Qwen-Image-2.1",
        sizes=replace(QWEN_SIZES, grid=32),
        max_images=10,
        steps=40,
        guidance_scale=1.0,
        distilled=True,
        research_only=True,
        licence="Qwen Research License",
        vision_area=K1,
        speaks=False,
        takes_loras=False,
    ),
    # For measurements: echoes the first image, so that what is around a model can be timed without one.
    Checkpoint(
        "null",
        source=None,
        sizes=NULL_SIZES,
        max_images=16,
        steps=4,
        guidance_scale=1.0,
        distilled=True,
        takes_loras=False,
        speaks=False,
        seed_matters=False,
    ),
)


def checkpoint_named(name: str, *, accept_research_licence: bool = False) -> Checkpoint:
    """The checkpoint of that name, or one for a local folder: as the row it is named after, or as 2511.

    Raises InvalidRequest for an unknown name, and for research weights unless they were accepted.
    """
    found = next((each for each in CHECKPOINTS if name in (each.name, each.source)), None)
    if found is None and ("/" in name or name.startswith(".")):
        own = name.rstrip("/").rsplit("/", 1)[-1]
        alike = (each for each in CHECKPOINTS if each.source is not None and each.name == own.lower())
        usual = next(each for each in CHECKPOINTS if each.name == "qwen-image-edit-2511")
        found = replace(next(alike, usual), name=own, source=name)
    if found is None:
        names = ", ".join(checkpoint.name for checkpoint in CHECKPOINTS)
        raise InvalidRequest(
            f"There is no checkpoint '{name}'. There are: {names}, or a path to a folder.", field="model"
        )
    if found.research_only and not accept_research_licence:
        raise InvalidRequest(
            f"'{name}' is under the {found.licence}: research and evaluation only. "
            "Pass --accept-research-licence if that is what you do.",
            field="model",
        )
    return found


def checkpoints_named(names: Sequence[str], *, accept_research_licence: bool = False) -> tuple[Checkpoint, ...]:
    """Each as `checkpoint_named` finds it, in order."""
    return tuple(checkpoint_named(name, accept_research_licence=accept_research_licence) for name in names)
