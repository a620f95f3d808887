"""An edit as one target will be asked for it: the provider's names and values, and what is left for us to do.

Values only. `normaliser.py` makes them from an `EditRequest` and a profile; an upstream turns them into a body, and
the runner of the gateway does what `Emulation` says with the images that come back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

from retouch.catalog.profiles import ImageShape, Sheet
from retouch.edit import ImageInput, Notice, OutputFormat

ImageSizes: TypeAlias = Mapping[str, tuple[int, int]]
"""Width and height, upright, of inputs by their field (`images[0]`); without those that are links still."""

NO_SIZES: ImageSizes = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ImageField:
    """Input images under the provider's own name, in the caller's order."""

    name: str
    shape: ImageShape
    images: tuple[ImageInput, ...]


@dataclass(frozen=True, slots=True)
class Emulation:
    """What the gateway does with each image that came, in this order: size, mask, format.

    size: width and height the caller must get, or None for what came. mask: what lies outside it is put back from
    the first input. output_format, output_quality: of the delivered file; None delivers the bytes as they came. Bytes
    that are already what is wanted are never encoded again.
    """

    size: tuple[int, int] | None = None
    mask: ImageInput | None = None
    output_format: OutputFormat | None = None
    output_quality: int = 95


@dataclass(frozen=True, slots=True)
class Normalised:
    """One call to a target. `calls` of them make the request; call i asks for `images_per_call` images.

    endpoint: the provider's model id, after conversions such as fal's `/inpaint`. parameters: what is sent beside the
    images, by the provider's names, in the order they are sent; for a call after the first the seed is counted up.
    seed: of the first image; seed_field: where it stands in `parameters`, None when the provider has none.
    seed_honoured: False where the same seed may give another image there. sheet: what this endpoint costs, where that
    is not the target's own price.
    """

    endpoint: str
    parameters: Mapping[str, Any]
    images: ImageField
    mask: ImageField | None
    seed: int
    seed_field: str | None
    seed_honoured: bool
    calls: int
    images_per_call: int
    emulation: Emulation
    notices: tuple[Notice, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    sheet: Sheet | None = None
