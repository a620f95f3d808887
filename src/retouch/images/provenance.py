"""What an image file says of its own making: that a trained algorithm took part, and which program wrote it.

By default an XMP packet with the IPTC's digital source type; on the operator's wish also a C2PA manifest, signed with
the operator's certificate. Neither ever holds the prompt, a key or a host. Nothing is hidden in the pixels.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from retouch.errors import InvalidSetting
from retouch.images.encoding import encode
from retouch.images.pixels import Pixels

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC's word for a photograph and trained generation together: the input was the caller's, the edit a model's."""

XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
    ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmp:CreatorTool="Retouch"'
    f' Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}"/></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
).encode()

MANIFEST = {
    "claim_generator_info": [{"name": "Retouch"}],
    "assertions": [
        {
            "label": "c2pa.actions.v2",
            "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE}]},
        }
    ],
}

_NO_THUMBNAIL = {"builder": {"thumbnail": {"enabled": False}}}
"""By default one is embedded, of 0.2 to 2 MB."""

_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


class ContentCredentials:
    """Signs image files with the operator's certificate; may be called from several threads.

    certificates: PEM, the signer's own first, then its chain. key: PEM of the private key.
    """

    def __init__(self, certificates: Path, key: Path) -> None:
        """Raises InvalidSetting when the extra is not installed, or the two files cannot sign."""
        try:
            import c2pa
        except ImportError:
            raise InvalidSetting("--provenance c2pa needs the extra 'c2pa': pip install 'retouch[c2pa]'.") from None
        self._c2pa: Any = c2pa
        self._chain = _read(certificates, "--provenance-cert")
        self._key = _read(key, "--provenance-key")
        self._algorithm = _algorithm_of(self._key, key)
        try:
            self.sign(encode(np.zeros((16, 16, 3), np.uint8), "png"), "image/png")
        except c2pa.C2paError as error:
            reason = next(iter(str(error).splitlines()), "unknown").rstrip(".")
            raise InvalidSetting(f"--provenance-cert {certificates} cannot sign images: {reason}.") from None

    def sign(self, data: bytes, media_type: str) -> bytes:
        """The same file with a manifest, about 3 kB more. The signature differs each time; the pixels do not."""
        info = self._c2pa.C2paSignerInfo(self._algorithm, self._chain.encode(), self._key.encode(), None)
        out = io.BytesIO()
        with (
            self._c2pa.Signer.from_info(info) as signer,
            self._c2pa.Context(self._c2pa.Settings.from_dict(_NO_THUMBNAIL)) as context,
            self._c2pa.Builder(json.dumps(MANIFEST), context) as builder,
        ):
            builder.sign(signer, media_type, io.BytesIO(data), out)
        return out.getvalue()


@dataclass(frozen=True, slots=True)
class Provenance:
    """How output files are marked. xmp: the packet, or None. credentials: None for no signature."""

    xmp: bytes | None = XMP
    credentials: ContentCredentials | None = field(default=None)

    def encode(self, pixels: Pixels, format: str, quality: int = 95) -> bytes:  # noqa: A002 - as in `encoding.encode`
        """The marked file; arguments and errors are those of `images.encode`."""
        data = encode(pixels, format, quality, xmp=self.xmp)
        return data if self.credentials is None else self.credentials.sign(data, f"image/{format}")


XMP_PROVENANCE = Provenance()
NO_PROVENANCE = Provenance(xmp=None)


def _read(path: Path, option: str) -> str:
    try:
        return path.expanduser().read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no PEM text"
        raise InvalidSetting(f"{option}: {path} cannot be read: {reason}.") from None


def _algorithm_of(key: str, path: Path) -> str:
    """The signature algorithm that C2PA names for a kind of key."""
    try:
        private = load_pem_private_key(key.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InvalidSetting(f"--provenance-key: {path} is no private key in PEM without a password.") from None
    if isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name in _CURVES:
        return _CURVES[private.curve.name]
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(private, rsa.RSAPrivateKey):
        return "ps256"
    raise InvalidSetting(f"--provenance-key: {path} is of a kind that C2PA does not sign with; use P-256.")
