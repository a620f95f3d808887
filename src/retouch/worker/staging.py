"""From an accepted request to pixels and specs for the engine, and from its images to files.

Runs on threads beside the device's work. Knows neither jobs nor the database; where the bytes of an input
come from is the caller's function, so that `retouch edit` stages in the same way without any store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

from retouch import images
from retouch.catalog import Checkpoint, Model, model_named
from retouch.edit import EditRequest, EditSpec, ImageInput, Notice, seed_of_image
from retouch.engine.region import editable_tokens
from retouch.errors import UnknownFile
from retouch.images import Mask, Pixels
from retouch.sizes import Sizes, check_mask, resolve
from retouch.storage.blobs import Blobs

ReadInput: TypeAlias = Callable[[ImageInput], bytes]


class Fetch(Protocol):
    """Downloads a caller's link, as `storage.fetch.Fetcher.fetch` does; errors carry `field`."""

    def __call__(self, url: str, *, field: str) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Staged:
    """Everything the engine needs for one request, and what is needed to finish its images.

    specs: one for each image, differing in their seed only. images: upright RGB, original sizes.
    mask: like the first image, 255 = edit here, or None to edit everywhere.
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


def stage_in(request: EditRequest, checkpoint: Checkpoint, read: ReadInput) -> Staged:
    """Fetch and decode the inputs and decide the sizes.

    request: completed by its route, so seed, steps and guidance are set. Raises InvalidRequest of any
    kind with `field`, UnknownFile, and StorageUnavailable.
    """
    model = model_named(request.model)
    notices: list[Notice] = []
    pixels = tuple(_decode(read(image), model, image.field, notices) for image in request.images)
    mask = None
    if request.mask is not None:
        mask = _decode_mask(read(request.mask), pixels[0], request.mask.field, notices)
    height, width = pixels[request.reference_index].shape[:2]
    sizes = resolve(request.size, checkpoint.sizes, (width, height), strict=request.strict)
    notices += sizes.notices
    return Staged(_specs(request, sizes, mask), pixels, mask, sizes, tuple(notices))


def finish_image(pixels: Pixels, staged: Staged) -> Pixels:
    """Bring one of the engine's images to its output size and put back what the mask protects.

    Outside the mask the result is the first input, resampled to the output size, pixel for pixel.
    """
    image = images.resize(pixels, staged.sizes.output)
    return image if staged.mask is None else images.composite(image, staged.images[0], staged.mask)


def _specs(request: EditRequest, sizes: Sizes, mask: Mask | None) -> tuple[EditSpec, ...]:
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
        )
        for index in range(request.num_images)
    )


def _decode(data: bytes, model: Model | None, field: str, notices: list[Notice]) -> Pixels:
    """The image of a file, after a look at its header; what was not taken literally is added to `notices`."""
    if model is not None:
        header = images.probe(data, field=field)
        notices += model.check_image(header.width, header.height, len(data), field=field)
    remarks: list[str] = []
    decoded = images.decode(data, field=field, remarks=remarks)
    notices += (Notice(field, "converted", remark) for remark in remarks)
    return decoded


def _decode_mask(data: bytes, first: Pixels, field: str, notices: list[Notice]) -> Mask:
    remarks: list[str] = []
    mask = images.decode_mask(data, field=field, remarks=remarks)
    notices += (Notice(field, "converted", remark) for remark in remarks)
    check_mask((mask.shape[1], mask.shape[0]), (first.shape[1], first.shape[0]), field=field)
    return mask
