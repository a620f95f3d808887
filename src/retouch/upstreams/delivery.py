"""From what a provider made to the file its caller gets: size, what a mask protects, format, in this order.

Also the sizes of inputs, which targets have to know before. The format of bytes is the one their first bytes tell; what
the provider calls it is not asked. It fetches nothing from providers: `downloads.py` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from retouch import images
from retouch.catalog.normalised import Emulation, ImageSizes, Normalised
from retouch.catalog.normaliser import needs_sizes
from retouch.catalog.target_sizes import shapes_differ
from retouch.edit import EditRequest, ImageInput, OutputFormat
from retouch.errors import InvalidImage, UnknownFile, UpstreamBadImage
from retouch.images import Mask, Pixels
from retouch.sizes import check_mask
from retouch.storage.blobs import Blobs
from retouch.storage.fetch import Fetcher
from retouch.upstreams.upstream import StoredResult

HEAD_BYTES: Final = 256 * 1024
"""An image's size is told in its first bytes, nearly always."""

RESULT: Final = "result"
"""What errors name as their field: the provider's image, and none of the caller's."""


class Delivery:
    """Thread-safe. fetcher: for inputs that are links, where a mask is composited here."""

    def __init__(self, blobs: Blobs, fetcher: Fetcher) -> None:
        self._blobs = blobs
        self._fetcher = fetcher

    def sizes_of(self, request: EditRequest) -> ImageSizes:
        """Width and height of the inputs that are stored, by field; empty where no target asks for them."""
        if not needs_sizes(request):
            return {}
        sizes = {}
        for image in request.inputs:
            if image.blob is None:
                continue
            try:
                head = next(iter(self._blobs.read_parts(image.blob, HEAD_BYTES)), b"")
                header = images.probe(head, field=image.field)
            except InvalidImage:  # with so much before it that the head was cut
                header = images.probe(self._blobs.get(image.blob).data, field=image.field)
            except UnknownFile as error:
                error.field = image.field
                raise
            sizes[image.field] = header.width, header.height
        return sizes

    def deliver(
        self, came: StoredResult, normalised: Normalised, request: EditRequest, ttl_s: float | None
    ) -> StoredResult:
        """What the caller gets for an image that came: that itself, where nothing is left to do.

        ttl_s: of the file; None when that which came lives long enough. Raises UpstreamBadImage, InvalidImage for an
        input, StorageUnavailable.
        """
        emulation = normalised.emulation
        if ttl_s is None and goes_as_it_came(came, emulation):
            return came
        originals = None
        if emulation.mask is not None:
            originals = Originals.read(self._read(request.images[0]), self._read(emulation.mask))
        try:
            made = emulate(self._blobs.get(came.blob).data, emulation, originals)
        except InvalidImage as error:
            if error.field != RESULT:
                raise
            raise UpstreamBadImage(error.message) from None
        key = self._blobs.put(made.data, made.media_type, folder="outputs", ttl_s=ttl_s)
        return StoredResult(key, made.media_type, made.width, made.height, len(made.data))

    def _read(self, image: ImageInput) -> bytes:
        if image.url is not None:
            return self._fetcher.fetch(image.url, field=image.field)
        assert image.blob is not None, "an image is either a blob or a link"
        return self._blobs.get(image.blob).data


def goes_as_it_came(came: StoredResult, emulation: Emulation) -> bool:
    """Whether nothing is left to do with an image: the provider's bytes are the file that the caller wants."""
    wanted = emulation.output_format
    same_size = emulation.size in (None, (came.width, came.height))
    return emulation.mask is None and same_size and (wanted is None or wanted.media_type == came.media_type)


@dataclass(frozen=True, slots=True)
class Originals:
    """The caller's own pixels, where a mask is composited here: the first image, upright, and the mask in its size."""

    source: Pixels
    mask: Mask

    @classmethod
    def read(cls, source: bytes, mask: bytes, *, remarks: list[str] | None = None) -> Originals:
        """Decode both. Raises InvalidImage of any kind naming `images[0]` or `mask`."""
        pixels = images.decode(source, field="images[0]")
        share = images.decode_mask(mask, field="mask", remarks=remarks)
        check_mask((share.shape[1], share.shape[0]), (pixels.shape[1], pixels.shape[0]), field="mask")
        return cls(pixels, share)


@dataclass(frozen=True, slots=True)
class FinishedImage:
    """A file to deliver. width, height: as seen upright. touched: its pixels were decoded and encoded here."""

    data: bytes
    media_type: str
    width: int
    height: int
    touched: bool


def emulate(
    data: bytes, emulation: Emulation, originals: Originals | None = None, *, xmp: bytes | None = None
) -> FinishedImage:
    """The file the caller gets for the one that came.

    originals: needed when `emulation.mask` is set. xmp: a packet for a file that is encoded here. Bytes that are what
    is wanted already are given back as they are. Raises InvalidImage of any kind, naming `result`, for what is no
    image, and for one whose shape is not the source's where a mask has to be composited.
    """
    header = images.probe(data, field=RESULT)
    size = (header.width, header.height)
    # What is never delivered, such as bmp, becomes png.
    came = OutputFormat(header.format) if header.format in list(OutputFormat) else OutputFormat.PNG
    wanted = emulation.output_format or came
    if emulation.mask is None and emulation.size in (None, size) and header.format == wanted.value:
        return FinishedImage(data, header.media_type, *size, touched=False)
    pixels = images.decode(data, field=RESULT)
    if emulation.size is not None:
        # Nothing is to be stretched: of an image in another shape the middle is taken.
        width, height = emulation.size
        fit = images.cover if shapes_differ(pixels.shape[1] / pixels.shape[0], width / height) else images.resize
        pixels = fit(pixels, emulation.size)
    if emulation.mask is not None:
        assert originals is not None, "a mask is composited over the caller's own image"
        height, width = originals.source.shape[:2]
        if shapes_differ(pixels.shape[1] / pixels.shape[0], width / height):
            raise InvalidImage(
                f"The image that came has {pixels.shape[1]} x {pixels.shape[0]} pixels, another shape than the first "
                f"input ({width} x {height}), so what the mask protects could not be put back.",
                field=RESULT,
            )
        pixels = images.composite(pixels, originals.source, originals.mask)
    encoded = images.encode(pixels, wanted.value, emulation.output_quality, xmp=xmp)
    return FinishedImage(encoded, wanted.media_type, pixels.shape[1], pixels.shape[0], touched=True)
