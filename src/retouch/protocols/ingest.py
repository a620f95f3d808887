"""Turns what a caller sent as an image into an `ImageInput`; the same for every face.

Bytes are looked at (format, size) and stored before a job is written; links are left for the worker to
fetch. Nothing is decoded here.
"""

from __future__ import annotations

import binascii

import pybase64

from retouch import images
from retouch.edit import ImageInput
from retouch.errors import ImageTooLarge, InvalidImage
from retouch.storage.blobs import DEFAULT_TTL_S, Blobs

MAX_IMAGE_BYTES = 50 * 1024 * 1024
"""OpenAI's and fal's own limit for one input image."""


def store_image(blobs: Blobs, data: bytes, *, field: str) -> ImageInput:
    """Check that `data` begins like an image of a sane size and store it.

    The bytes survive a power cut from the moment `service.submit` has accepted the edit that names them.
    Raises InvalidImage (or a kind of it) with `field`, and StorageUnavailable.
    """
    if len(data) > MAX_IMAGE_BYTES:
        raise ImageTooLarge(
            f"The image in '{field}' has {len(data)} bytes; at most {MAX_IMAGE_BYTES} are allowed.",
            field=field,
            max_bytes=MAX_IMAGE_BYTES,
        )
    header = images.probe(data, field=field)
    key = blobs.put(data, header.media_type, folder="uploads", ttl_s=DEFAULT_TTL_S, sync=False)
    return ImageInput(blob=key, field=field, owned=True)


def image_from_text(blobs: Blobs, text: str, *, field: str, base_url: str | None = None) -> ImageInput:
    """An `ImageInput` for a link, one of our own links, or a data URI.

    Our own links are read from storage without the network. Raises InvalidImage with `field`.
    """
    text = text.strip()
    scheme = text[:8].lower()
    if scheme.startswith("data:"):
        return store_image(blobs, _data_uri_bytes(text, field), field=field)
    if scheme.startswith(("http://", "https://")):
        key = blobs.key_of_link(text, base_url=base_url)
        return ImageInput(blob=key, field=field) if key else ImageInput(url=text, field=field)
    raise InvalidImage(
        f"The field '{field}' must be an http(s) link or a data URI; it begins '{text[:20]}'.", field=field
    )


def _data_uri_bytes(text: str, field: str) -> bytes:
    head, comma, payload = text.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise InvalidImage(f"The data URI in '{field}' must be base64: 'data:image/png;base64,…'.", field=field)
    try:
        return pybase64.b64decode(payload, validate=False)
    except (binascii.Error, ValueError):
        raise InvalidImage(f"The data URI in '{field}' is not valid base64.", field=field) from None
