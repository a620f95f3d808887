"""Bytes of image files to RGB pixels and back.

Formats, limits, orientation, colour and metadata are settled here, so that everything behind it sees only
upright `Pixels`. It does not fetch, store, or decide sizes.
"""

from __future__ import annotations

from retouch.images.decoding import MAX_PIXELS, READABLE_FORMATS, ImageHeader, decode, decode_mask, probe
from retouch.images.encoding import NO_PROVENANCE, XMP_PROVENANCE, ContentCredentials, Provenance, data_uri, encode
from retouch.images.pixels import Mask, Pixels, composite, cover, resize

__all__ = [
    "MAX_PIXELS",
    "NO_PROVENANCE",
    "READABLE_FORMATS",
    "XMP_PROVENANCE",
    "ContentCredentials",
    "ImageHeader",
    "Mask",
    "Pixels",
    "Provenance",
    "composite",
    "cover",
    "data_uri",
    "decode",
    "decode_mask",
    "encode",
    "probe",
    "resize",
]
