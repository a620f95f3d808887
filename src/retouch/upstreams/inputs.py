"""How a provider gets the input images: by our link, by its own upload, or inside the request.

A link costs neither of us a byte of the request; an upload costs a request more, and still leaves the paid one small
enough to be told from a broken one. What the body looks like around the images is the kind's matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, TypeAlias

from retouch.catalog.normalised import ImageField
from retouch.edit import ImageInput
from retouch.storage.blobs import Blobs
from retouch.upstreams.bodies import Inline, StoredImage
from retouch.upstreams.upstream import Call, Fault, FaultKind


class ImageMode(StrEnum):
    """`auto` takes the first of the three that can be had: a link needs a public address, an upload a provider's."""

    AUTO = "auto"
    LINK = "link"
    UPLOAD = "upload"
    INLINE = "inline"


Upload: TypeAlias = Callable[[StoredImage], str | Fault]
"""Sends an image to the provider's own store and returns the link that a submit may name."""


class CannotSend(Exception):
    """An input cannot be given to the provider; nothing was submitted."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs of one upstream's calls. upload: None where the provider has none, or none is used."""

    blobs: Blobs
    mode: ImageMode = ImageMode.AUTO
    upload: Upload | None = None

    def members(self, call: Call) -> dict[str, Any]:
        """What the provider is asked, under its own names: the parameters, then the images, then what is passed on.

        Raises CannotSend.
        """
        normalised = call.normalised
        fields = [normalised.images] if normalised.mask is None else [normalised.images, normalised.mask]
        return {**parameters_of(call), **self.images(call, fields), **normalised.options}

    def images(self, call: Call, fields: list[ImageField]) -> dict[str, Any]:
        """The images by field, each a string or a list of them; `Inline` stands where bytes go. Raises CannotSend."""
        found: dict[str, Any] = {}
        for field in fields:
            values = [self.value(call, image) for image in field.images]
            found[field.name] = values[0] if field.shape == "one" else values
        return found

    def value(self, call: Call, image: ImageInput) -> str | Inline:
        """A link, or the image itself. Raises CannotSend."""
        link = call.links.get(image.field)
        if link is not None and self.mode in (ImageMode.AUTO, ImageMode.LINK):
            return link
        if image.blob is None:
            return link or str(image.url)
        if self.mode is ImageMode.LINK:
            message = "This upstream is given links only, and no public address is set for them (public_url)."
            raise CannotSend(Fault(FaultKind.INVALID, message, charged=False))
        stored = StoredImage.of(self.blobs, image.blob)
        if self.upload is None or self.mode is ImageMode.INLINE:
            return Inline(stored)
        uploaded = self.upload(stored)
        if isinstance(uploaded, Fault):
            raise CannotSend(_not_submitted(uploaded))
        return uploaded

    def asked(self, sent: object, call: Call, *, by_links: bool = True) -> bool:
        """Whether an input in a provider's history is this call's: the same seed where one is sent, and our links where
        they are. Never by the words of the prompt, which two callers may share. by_links: False for a call whose links
        may have been made anew since.
        """
        normalised = call.normalised
        if not isinstance(sent, Mapping):
            return False
        if normalised.seed_field is not None and sent.get(normalised.seed_field) != call.seed:
            return False
        if not by_links or self.mode not in (ImageMode.AUTO, ImageMode.LINK):
            return normalised.seed_field is not None
        links = [call.links[image.field] for image in normalised.images.images if image.field in call.links]
        told = sent.get(normalised.images.name)
        told = told if isinstance(told, list) else [told]
        return told[: len(links)] == links if links else normalised.seed_field is not None

    def stored(self, image: ImageInput) -> StoredImage:
        """The image for a file part. Raises CannotSend for one that is a link still."""
        if image.blob is None:
            message = f"'{image.field}' is a link; this upstream is sent files only."
            raise CannotSend(Fault(FaultKind.INVALID, message, charged=False))
        return StoredImage.of(self.blobs, image.blob)


def parameters_of(call: Call) -> Mapping[str, Any]:
    """The parameters with this call's own seed in its place."""
    normalised = call.normalised
    if normalised.seed_field is None:
        return normalised.parameters
    return {
        name: call.seed if name == normalised.seed_field else value for name, value in normalised.parameters.items()
    }


def _not_submitted(fault: Fault) -> Fault:
    """An upload without an answer is no submit of unknown outcome: the submit was never sent."""
    if fault.kind in (FaultKind.NO_ANSWER, FaultKind.MALFORMED):
        return replace(fault, kind=FaultKind.INTERRUPTED, charged=False)
    return replace(fault, charged=False)
