"""Output files say that a model took part and nothing of the caller; C2PA only with the operator's certificate."""

from __future__ import annotations

import datetime
import io
import json
from pathlib import Path
from xml.etree import ElementTree

import c2pa
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image

from retouch import images
from retouch.errors import InvalidSetting
from retouch.images.encoding import SOURCE_TYPE, XMP

PIXELS = np.random.default_rng(1).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
SMALL = PIXELS[:48, :64].copy()


@pytest.mark.parametrize("name", ["png", "jpeg", "webp", "avif"])
def test_a_file_says_where_it_comes_from_and_nothing_else(name: str) -> None:
    marked, plain = images.XMP_PROVENANCE.encode(SMALL, name), images.NO_PROVENANCE.encode(SMALL, name)
    with Image.open(io.BytesIO(marked)) as image:
        packet = image.info["xmp"]
        assert np.array_equal(images.decode(marked), images.decode(plain))
    assert packet == XMP
    [description] = ElementTree.fromstring(packet.decode())[0]
    assert {key.rpartition("}")[2]: value for key, value in description.attrib.items()} == {
        "about": "",
        "CreatorTool": "Retouch",
        "DigitalSourceType": SOURCE_TYPE,
    }
    assert 0 < len(marked) - len(plain) < 1000
    with Image.open(io.BytesIO(plain)) as image:
        assert "xmp" not in image.info
    assert plain == images.encode(SMALL, name)
    assert images.XMP_PROVENANCE.encode(SMALL, name) == marked


def test_a_gif_stays_as_it_is() -> None:
    assert images.XMP_PROVENANCE.encode(SMALL, "gif") == images.encode(SMALL, "gif")


def name(text: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, text), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Us")]
    )


def certificate_files(folder: Path, *, usable: bool = True) -> tuple[Path, Path]:
    """A signer's certificate with its authority, and its key; not usable: without the usage that C2PA wants."""
    now = datetime.datetime.now(datetime.UTC)
    authority, signer = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def build(subject: str, key: ec.EllipticCurvePrivateKey, *, is_authority: bool) -> x509.Certificate:
        usage = x509.KeyUsage(
            digital_signature=not is_authority, key_cert_sign=is_authority, crl_sign=is_authority,
            content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
            encipher_only=False, decipher_only=False,
        )  # fmt: skip
        builder = (
            x509.CertificateBuilder(name("Authority"), name(subject), key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
        )
        if not is_authority and usable:
            builder = builder.add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False
            )
        return builder.sign(authority, hashes.SHA256())

    chain = b"".join(
        certificate.public_bytes(Encoding.PEM)
        for certificate in (
            build("Signer", signer, is_authority=False),
            build("Authority", authority, is_authority=True),
        )
    )
    certificates, key = folder / "chain.pem", folder / "key.pem"
    certificates.write_bytes(chain)
    key.write_bytes(signer.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificates, key


@pytest.mark.parametrize("name", ["png", "jpeg", "webp", "avif", "gif"])
def test_a_signed_file_validates_and_grows_by_little(tmp_path: Path, name: str) -> None:
    provenance = images.Provenance(credentials=images.ContentCredentials(*certificate_files(tmp_path)))
    signed, plain = provenance.encode(PIXELS, name), images.XMP_PROVENANCE.encode(PIXELS, name)
    assert len(signed) - len(plain) < 8000
    with c2pa.Reader(f"image/{name}", io.BytesIO(signed)) as reader:
        manifest = json.loads(reader.json())
    assert manifest["validation_state"] in ("Valid", "Trusted")
    assert SOURCE_TYPE in json.dumps(manifest)
    assert np.array_equal(images.decode(signed), images.decode(plain))


@pytest.mark.parametrize(
    ("certificate", "key", "sentence"),
    [
        (None, "key.pem", "--provenance-cert: .* cannot be read"),
        ("chain.pem", None, "--provenance-key: .* cannot be read"),
        ("chain.pem", "chain.pem", "no private key in PEM"),
        ("key.pem", "key.pem", "cannot sign images"),
    ],
)
def test_files_that_cannot_sign_are_refused_at_start(
    tmp_path: Path, certificate: str | None, key: str | None, sentence: str
) -> None:
    certificate_files(tmp_path)
    with pytest.raises(InvalidSetting, match=sentence):
        images.ContentCredentials(tmp_path / (certificate or "missing"), tmp_path / (key or "missing"))


def test_a_certificate_for_another_use_is_refused_at_start(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="cannot sign images"):
        images.ContentCredentials(*certificate_files(tmp_path, usable=False))


def test_a_key_of_a_kind_without_an_algorithm_is_refused(tmp_path: Path) -> None:
    certificates, key = certificate_files(tmp_path)
    other = dsa.generate_private_key(1024)
    key.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(InvalidSetting, match="does not sign with"):
        images.ContentCredentials(certificates, key)
