"""What is done to an edit on its way to the engine and back: fetched, decoded, sized; finished; checked both ways.

Runs on threads beside the device's work. Knows neither jobs nor the database; where the bytes of an input come from is
the caller's function, so that `retouch edit` stages and checks in the same way without any store.

Prompts and inputs are judged before the device hears of the edit, outputs and previews before anything is encoded or
stored. Scores go to the operator's log only; what a caller learns is the stage and a general category. Which classifier
judges is `engine/safety.py`'s and `engine/prompt_safety.py`'s matter.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Literal, Protocol, TypeAlias

from retouch import images
from retouch.catalog import Checkpoint, Checks, checks_of, model_named
from retouch.edit import EditRequest, EditSpec, ImageInput, Lora, LoraFile, Notice, seed_of_image
from retouch.engine.prompt_safety import PromptChecker
from retouch.engine.region import editable_tokens
from retouch.engine.safety import ImageChecker, Stage
from retouch.errors import ContentRefused, SafetyUnavailable, UnknownFile, UnsupportedParameter
from retouch.images import Mask, Pixels
from retouch.sizes import Sizes, check_mask, resolve
from retouch.storage.blobs import Blobs

logger = logging.getLogger(__name__)  # the standard one: `retouch edit` sets up no other

ReadInput: TypeAlias = Callable[[ImageInput], bytes]


class FindLora(Protocol):
    """From a LoRA to its file on this machine, as `worker.loras.LoraFinder.find` does."""

    def __call__(self, lora: Lora, place: str) -> LoraFile: ...


class Fetch(Protocol):
    """Downloads a caller's link, as `storage.fetch.Fetcher.fetch` does; errors carry `field`."""

    def __call__(self, url: str, *, field: str) -> bytes: ...


CHECKED_AREA = 512**2
"""Above what image classifiers look at; theirs are 224 to 448 pixels a side."""


@dataclass(frozen=True, slots=True)
class Staged:
    """Everything the engine needs for one request, and what is needed to finish its images.

    specs: one for each image, differing in their seed only. images: upright RGB in their own shapes, at their own sizes
    or smaller, see `needed_size`; the first one at its own when there is a mask. mask: of the first image's size, 255 =
    edit here, or None to edit everywhere.
    """

    specs: tuple[EditSpec, ...]
    images: tuple[Pixels, ...]
    mask: Mask | None
    sizes: Sizes
    notices: tuple[Notice, ...]

    @property
    def steps(self) -> int:
        """Denoise steps of all images together."""
        return sum(spec.steps for spec in self.specs)

    def with_prompt(self, prompt: str, notices: Sequence[Notice]) -> Staged:
        """The same with other words, and more to tell the caller."""
        specs = tuple(replace(spec, prompt=prompt) for spec in self.specs)
        return replace(self, specs=specs, notices=(*self.notices, *notices))


def input_reader(blobs: Blobs, fetch: Fetch) -> ReadInput:
    """Reads stored inputs from `blobs` and links over the network; errors carry the input's field."""

    def read(image: ImageInput) -> bytes:
        if image.url is not None:
            return fetch(image.url, field=image.field)
        assert image.blob is not None, "an image is either a blob or a link"
        try:
            return blobs.get(image.blob).data
        except UnknownFile as error:
            error.field = image.field
            raise

    return read


def no_lora(lora: Lora, place: str) -> LoraFile:
    raise UnsupportedParameter(f"The LoRA '{lora.path[:200]}' cannot be had here.", field=f"{place}.path")


def stage_in(request: EditRequest, checkpoint: Checkpoint, read: ReadInput, find_lora: FindLora = no_lora) -> Staged:
    """Fetch and decode the inputs and decide the sizes; have the LoRAs' files on this machine.

    request: completed by its route, so seed, steps and guidance are set. Raises InvalidRequest of any
    kind with `field`, UnknownFile, and StorageUnavailable.
    """
    model = model_named(request.model)
    notices: list[Notice] = []
    files = [read(image) for image in request.images]
    fields = [image.field for image in request.images]
    headers: list[images.ImageHeader] = []
    for name, data in zip(fields, files, strict=True):
        header = images.probe(data, field=name)
        headers.append(header)
        if model is not None:
            notices += model.check_image(header.width, header.height, len(data), field=name)
    # A JPEG is decoded once it is known how large it has to be; others may tell their orientation only when decoded.
    whole = {
        index: _decode(data, fields[index], notices, None)
        for index, data in enumerate(files)
        if headers[index].format != "jpeg"
    }
    originals = [
        (whole[index].shape[1], whole[index].shape[0]) if index in whole else (header.width, header.height)
        for index, header in enumerate(headers)
    ]
    mask = None
    if request.mask is not None:
        remarks: list[str] = []
        name = request.mask.field
        mask = images.decode_mask(read(request.mask), field=name, remarks=remarks)
        notices += (Notice(name, "converted", remark) for remark in remarks)
        check_mask((mask.shape[1], mask.shape[0]), originals[0], field=name)
    sizes = resolve(request.size, checkpoint.sizes, originals[request.reference_index], strict=request.strict)
    notices += sizes.notices
    pixels: list[Pixels] = []
    for index, data in enumerate(files):
        protected = index == 0 and mask is not None  # what lies outside the mask is the file's, at the output's size
        needed = None if protected else needed_size(originals[index], sizes.canvas, checkpoint)
        pixels.append(whole[index] if index in whole else _decode(data, fields[index], notices, needed))
    loras = tuple(find_lora(lora, f"loras[{index}]") for index, lora in enumerate(request.loras))
    return Staged(_specs(request, sizes, mask, loras), tuple(pixels), mask, sizes, tuple(notices))


def _decode(data: bytes, field: str, notices: list[Notice], needed: tuple[float, float] | None) -> Pixels:
    """The image of a file, large enough for `needed`; what was not taken literally is added to `notices`."""
    remarks: list[str] = []
    decoded = images.decode(data, field=field, remarks=remarks, at_least=needed)
    notices += (Notice(field, "converted", remark) for remark in remarks)
    return decoded


def needed_size(original: tuple[int, int], canvas: tuple[int, int], checkpoint: Checkpoint) -> tuple[float, float]:
    """Width and height at which an image is looked at by anything: the networks, or a checker."""
    area = max(checkpoint.reference_area, checkpoint.vision_area, CHECKED_AREA)
    ratio = original[0] / original[1]
    return max(canvas[0], math.sqrt(area * ratio)), max(canvas[1], math.sqrt(area / ratio))


def _specs(request: EditRequest, sizes: Sizes, mask: Mask | None, loras: tuple[LoraFile, ...]) -> tuple[EditSpec, ...]:
    assert request.seed is not None, "the route completes a request before it is queued"
    assert request.steps is not None, "the route completes a request before it is queued"
    assert request.guidance_scale is not None, "the route completes a request before it is queued"
    assert request.acceleration is not None, "the route completes a request before it is queued"
    width, height = sizes.canvas
    region = None if mask is None else editable_tokens(mask, height // 16, width // 16)
    return tuple(
        EditSpec(
            prompt=request.prompt,
            width=width,
            height=height,
            seed=seed_of_image(request.seed, index),
            steps=request.steps,
            guidance_scale=request.guidance_scale,
            negative_prompt=request.negative_prompt or " ",
            acceleration=request.acceleration,
            region=region,
            loras=loras,
        )
        for index in range(request.num_images)
    )


def finish_image(pixels: Pixels, staged: Staged) -> Pixels:
    """Bring one of the engine's images to its output size and put back what the mask protects.

    Outside the mask the result is the first input, resampled to the output size, pixel for pixel.
    """
    image = images.resize(pixels, staged.sizes.output)
    return image if staged.mask is None else images.composite(image, staged.images[0], staged.mask)


SWITCH = "enable_safety_checker"

NOT_CHECKED = Notice(SWITCH, "ignored", "Not checked: the safety checker failed.")
ENFORCED = Notice(SWITCH, "converted", "This server checks every edit; the safety checker stayed on.")


class SafetyTally:
    """How often each check ended how, and the seconds of all together, since the start; safe from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._checks: Counter[str] = Counter()
        self._seconds = 0.0

    def count(self, stage: Stage, verdict: str, seconds: float) -> None:
        """verdict: passed, flagged or failed."""
        with self._lock:
            self._checks[f"{stage} {verdict}"] += 1
            self._seconds += seconds

    @property
    def checks(self) -> Mapping[str, int]:
        """By `stage verdict`."""
        with self._lock:
            return dict(self._checks)

    @property
    def seconds(self) -> float:
        return self._seconds


@dataclass(frozen=True, slots=True)
class Moderation:
    """What the operator's checkers mean for one edit: refused, delivered in black, not checked, or nothing at all.

    images, prompts: None where nothing checks them. failure: what a checker that fails means, `refuse` (the job fails,
    and may be tried again) or `pass` (delivered, and reported as not checked). enforce: callers may not switch the
    checks off.
    """

    images: ImageChecker | None = None
    prompts: PromptChecker | None = None
    failure: Literal["refuse", "pass"] = "refuse"
    enforce: bool = False
    tally: SafetyTally = field(default_factory=SafetyTally)

    def applies_to(self, request: EditRequest) -> bool:
        return request.enable_safety_checker or self.enforce

    def notices(self, request: EditRequest) -> tuple[Notice, ...]:
        """What is to be said of the caller's switch."""
        checked = self.images is not None or self.prompts is not None
        return (ENFORCED,) if self.enforce and checked and not request.enable_safety_checker else ()

    def check_prompt(self, request: EditRequest, prompt: str, *, job: str) -> tuple[Notice, ...]:
        """Raises ContentRefused, SafetyUnavailable when a failure refuses, InvalidRequest for an unreadable prompt."""
        if self.prompts is None or not self.applies_to(request):
            return ()
        try:
            judgement = self.prompts.check(prompt)
        except SafetyUnavailable as error:
            self._tolerate(error, job, "prompt")
            return (NOT_CHECKED,)
        if not judgement.flagged:
            return ()
        logger.info("the safety checker refused the prompt of %s (%s)", job, judgement.detail)
        raise ContentRefused(
            "The prompt was refused by the safety checker.",
            field="prompt",
            stage="prompt",
            category=judgement.category,
        )

    def check_inputs(self, request: EditRequest, images: Sequence[Pixels], *, job: str) -> tuple[Notice, ...]:
        """Raises ContentRefused that names the first flagged image's field, or SafetyUnavailable."""
        if checks_of(request.model) is Checks.OUTPUT or not self.applies_to(request):
            return ()
        for index, (source, image) in enumerate(zip(request.images, images, strict=True), start=1):
            flagged = self._flagged(image, "input", job, f"image {index} of {len(images)}")
            if flagged is None and self.images is not None:
                return (NOT_CHECKED,)
            if flagged:
                raise ContentRefused(
                    f"The image in '{source.field}' was refused by the safety checker.",
                    field=source.field,
                    stage="input",
                    category=self._category,
                )
        return ()

    def check_outputs(
        self, request: EditRequest, images: Sequence[Pixels], *, job: str
    ) -> tuple[list[bool | None], tuple[Notice, ...]]:
        """For each finished image whether it is flagged, None where it was not checked.

        Raises ContentRefused when every image is flagged and the model's callers are to get an error for that, and
        SafetyUnavailable when a failure refuses.
        """
        if self.images is None or not self.applies_to(request):
            return [None] * len(images), ()
        count = len(images)
        flags = [self._flagged(image, "output", job, f"image {n} of {count}") for n, image in enumerate(images, 1)]
        refused = [number for number, flag in enumerate(flags, start=1) if flag]
        if len(refused) == count and checks_of(request.model) is not Checks.OUTPUT:
            raise ContentRefused(
                f"{'Every image' if count > 1 else 'The image'} of this edit was refused by the safety checker.",
                stage="output",
                category=self._category,
            )
        notices = [NOT_CHECKED] if None in flags else []
        if refused:
            numbers = ", ".join(map(str, refused))
            detail = f"The safety checker refused image {numbers} of {count}; it is delivered in black."
            notices.append(Notice(SWITCH, "converted", detail))
        return flags, tuple(notices)

    def allows_preview(self, request: EditRequest, image: Pixels, *, job: str) -> bool:
        """Whether an unfinished image may be shown; one that could not be checked may not."""
        if self.images is None or not self.applies_to(request):
            return True
        try:
            return not self.images.check(image, "preview").flagged
        except SafetyUnavailable:
            logger.warning("a preview of %s is left out: the safety checker failed", job)
            return False

    @property
    def _category(self) -> str | None:
        return None if self.images is None else self.images.category

    def _flagged(self, image: Pixels, stage: Stage, job: str, which: str) -> bool | None:
        """None: not checked, because nothing checks or a failure passes."""
        if self.images is None:
            return None
        try:
            verdict = self.images.check(image, stage)
        except SafetyUnavailable as error:
            self._tolerate(error, job, stage)
            return None
        if verdict.flagged:
            numbers = round(verdict.score, 4), self.images.threshold
            logger.info("the safety checker refused %s, %s of %s (score %g, threshold %g)", which, stage, job, *numbers)
        return verdict.flagged

    def _tolerate(self, error: SafetyUnavailable, job: str, stage: Stage) -> None:
        """Raise the error again where a failure refuses."""
        logger.warning("the safety checker failed on the %s of %s; the setting is: %s", stage, job, self.failure)
        if self.failure == "refuse":
            raise error
