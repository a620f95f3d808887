"""From an accepted request to pixels and specs for the engine, and from its images to files.

Runs on threads beside the device's work. Knows neither jobs nor the database; where the bytes of an input
come from is the caller's function, so that `retouch edit` stages in the same way without any store.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

from retouch import images
from retouch.catalog import Checkpoint, Model, model_named
from retouch.edit import EditRequest, EditSpec, ImageInput, Lora, LoraFile, Notice, seed_of_image
from retouch.engine.region import editable_tokens
from retouch.errors import UnknownFile, UnsupportedParameter
from retouch.images import Mask, Pixels
from retouch.sizes import Sizes, check_mask, resolve
from retouch.storage.blobs import Blobs

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
    headers = [_look_at(data, model, image.field, notices) for data, image in zip(files, request.images, strict=True)]
    fields = [image.field for image in request.images]
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
        mask = _decode_mask(read(request.mask), originals[0], request.mask.field, notices)
    sizes = resolve(request.size, checkpoint.sizes, originals[request.reference_index], strict=request.strict)
    notices += sizes.notices
    pixels: list[Pixels] = []
    for index, data in enumerate(files):
        protected = index == 0 and mask is not None  # what lies outside the mask is the file's, at the output's size
        needed = None if protected else needed_size(originals[index], sizes.canvas, checkpoint)
        pixels.append(whole[index] if index in whole else _decode(data, fields[index], notices, needed))
    loras = tuple(find_lora(lora, f"loras[{index}]") for index, lora in enumerate(request.loras))
    return Staged(_specs(request, sizes, mask, loras), tuple(pixels), mask, sizes, tuple(notices))


def needed_size(original: tuple[int, int], canvas: tuple[int, int], checkpoint: Checkpoint) -> tuple[float, float]:
    """Width and height at which an image is looked at by anything: the networks, or a checker."""
    area = max(checkpoint.reference_area, checkpoint.vision_area, CHECKED_AREA)
    ratio = original[0] / original[1]
    return max(canvas[0], math.sqrt(area * ratio)), max(canvas[1], math.sqrt(area / ratio))


def finish_image(pixels: Pixels, staged: Staged) -> Pixels:
    """Bring one of the engine's images to its output size and put back what the mask protects.

    Outside the mask the result is the first input, resampled to the output size, pixel for pixel.
    """
    image = images.resize(pixels, staged.sizes.output)
    return image if staged.mask is None else images.composite(image, staged.images[0], staged.mask)


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


def _look_at(data: bytes, model: Model | None, field: str, notices: list[Notice]) -> images.ImageHeader:
    """The header of a file; what the model has to say of it is added to `notices`."""
    header = images.probe(data, field=field)
    if model is not None:
        notices += model.check_image(header.width, header.height, len(data), field=field)
    return header


def _decode(data: bytes, field: str, notices: list[Notice], needed: tuple[float, float] | None) -> Pixels:
    """The image of a file, large enough for `needed`; what was not taken literally is added to `notices`."""
    remarks: list[str] = []
    decoded = images.decode(data, field=field, remarks=remarks, at_least=needed)
    notices += (Notice(field, "converted", remark) for remark in remarks)
    return decoded


def _decode_mask(data: bytes, first: tuple[int, int], field: str, notices: list[Notice]) -> Mask:
    """first: width and height of the first image."""
    remarks: list[str] = []
    mask = images.decode_mask(data, field=field, remarks=remarks)
    notices += (Notice(field, "converted", remark) for remark in remarks)
    check_mask((mask.shape[1], mask.shape[0]), first, field=field)
    return mask
