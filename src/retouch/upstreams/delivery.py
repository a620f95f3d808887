"""From what a provider made to the file its caller gets, and the sizes of inputs that targets have to know before."""

from __future__ import annotations

from retouch import images
from retouch.catalog.normalised import Emulation, ImageSizes, Normalised
from retouch.catalog.normaliser import needs_sizes
from retouch.edit import EditRequest, ImageInput
from retouch.errors import InvalidImage, UnknownFile, UpstreamBadImage
from retouch.storage.blobs import Blobs
from retouch.storage.fetch import Fetcher
from retouch.upstreams.emulation import RESULT, Inputs, emulate
from retouch.upstreams.upstream import StoredResult

HEAD_BYTES = 256 * 1024
"""An image's size is told in its first bytes, nearly always."""


def goes_as_it_came(came: StoredResult, emulation: Emulation) -> bool:
    """Whether nothing is left to do with an image: the provider's bytes are the file that the caller wants."""
    wanted = emulation.output_format
    same_size = emulation.size in (None, (came.width, came.height))
    return emulation.mask is None and same_size and (wanted is None or wanted.media_type == came.media_type)


class Delivery:
    """Thread-safe. fetcher: for inputs that are links, where a mask is composited here."""

    def __init__(self, blobs: Blobs, fetcher: Fetcher) -> None:
        self._blobs = blobs
        self._fetcher = fetcher

    def sizes_of(self, request: EditRequest) -> ImageSizes:
        """Width and height of the inputs that are stored, by field; empty where no target asks for them."""
        if not needs_sizes(request):
            return {}
        stored = (image for image in request.inputs if image.blob is not None)
        return {image.field: self._size_of(image) for image in stored}

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
        inputs = None
        if emulation.mask is not None:
            inputs = Inputs.read(self._read(request.images[0]), self._read(emulation.mask))
        try:
            made = emulate(self._blobs.get(came.blob).data, emulation, inputs)
        except InvalidImage as error:
            if error.field != RESULT:
                raise
            raise UpstreamBadImage(error.message) from None
        key = self._blobs.put(made.data, made.media_type, folder="outputs", ttl_s=ttl_s)
        return StoredResult(key, made.media_type, made.width, made.height, len(made.data))

    def _size_of(self, image: ImageInput) -> tuple[int, int]:
        assert image.blob is not None, "only stored inputs are looked at here"
        try:
            head = next(iter(self._blobs.read_parts(image.blob, HEAD_BYTES)), b"")
            header = images.probe(head, field=image.field)
        except InvalidImage:  # with so much before it that the head was cut
            header = images.probe(self._blobs.get(image.blob).data, field=image.field)
        except UnknownFile as error:
            error.field = image.field
            raise
        return header.width, header.height

    def _read(self, image: ImageInput) -> bytes:
        if image.url is not None:
            return self._fetcher.fetch(image.url, field=image.field)
        assert image.blob is not None, "an image is either a blob or a link"
        return self._blobs.get(image.blob).data
