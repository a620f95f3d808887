"""Certificates for `--tls auto`: an authority of this server's own, and a certificate that it signs.

The authority may sign for this server's names and for nothing else, so trusting it risks nothing else.
Files are made once in the data folder and made again when they no longer serve. It asks no outside authority.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import ssl
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from retouch.errors import InvalidSetting
from retouch.protocols.registry import VENDOR_HOSTS

logger = structlog.get_logger(__name__)

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
WILDCARDS = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - compared, not bound

AUTHORITY_LIFE = timedelta(days=3650)
SERVER_LIFE = timedelta(days=397)
"""Some clients refuse a certificate that lives longer, whichever authority signed it."""

RENEW_BEFORE = timedelta(days=30)
DAY_S = 86_400.0
CLOCK_SLACK = timedelta(days=1)
"""Certificates begin in the past: a client's clock may be behind."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where the files are; they need not exist.

    authority: the certificate to trust. bundle: the same with the public authorities, for clients that know one
    file only. server: the server's private key and certificate in one file.
    """

    folder: Path

    @classmethod
    def of(cls, data: Path) -> TlsFiles:
        return cls(data / "tls")

    @property
    def authority(self) -> Path:
        return self.folder / "authority.pem"

    @property
    def authority_key(self) -> Path:
        return self.folder / "authority.key"

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle.pem"

    @property
    def server(self) -> Path:
        return self.folder / "server.pem"


def names_for(host: str, public_url: str | None) -> tuple[str, ...]:
    """Every name and address this server answers to: local ones, the vendors' hosts, the operator's own."""
    own = [] if host in WILDCARDS else [host]
    public = urlsplit(public_url).hostname if public_url else None
    return tuple(dict.fromkeys((*LOCAL_NAMES, *VENDOR_HOSTS, *own, *([public] if public else []))))


def ensure(files: TlsFiles, names: Iterable[str], now: datetime | None = None) -> TlsFiles:
    """Make what is missing, expired within `RENEW_BEFORE`, or made for other names; keep the rest.

    A new authority is made only when the old one may not sign for these names or ends; clients must then be
    given the new one, which is logged.
    """
    now, wanted = now or datetime.now(UTC), tuple(map(_general_name, names))
    files.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (files.folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two servers on one data folder must not each make an authority
        authority = _read(files.authority, files.authority_key)
        if authority is None or not _may_sign(authority[0], wanted, now):
            if authority is not None:
                logger.warning("a new certificate authority; clients must trust it anew", file=str(files.authority))
            authority = _make_authority(wanted, now)
            _write(files.authority_key, _key_text(authority[1]), 0o600)
            _write(files.authority, _certificate_text(authority[0]), 0o644)
        server = _read(files.server, files.server)
        if server is None or not _serves(server[0], authority[0], wanted, now):
            server = _make_server(authority, wanted, now)
            _write(files.server, _key_text(server[1]) + _certificate_text(server[0]), 0o600)
        _write(files.bundle, _certificate_text(authority[0]) + _public_authorities(), 0o644)
        for private in (files.authority_key, files.server):
            private.chmod(0o600)
    return files


def renew_daily(
    files: TlsFiles,
    names: Sequence[str],
    context: Callable[[], ssl.SSLContext],
    stop: threading.Event,
    *,
    every_s: float = DAY_S,
) -> None:
    """Look once a day until `stop`; connections made after a renewal use the new certificate."""
    while not stop.wait(every_s):
        try:
            context().load_cert_chain(ensure(files, names).server)
        except OSError:
            logger.exception("the certificate could not be looked after; another try follows in a day")


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name.partition("%")[0]))
    except ValueError:
        pass
    try:
        return x509.DNSName(name.lower().encode("idna").decode())
    except UnicodeError:
        raise InvalidSetting(f"No certificate can be made for the name '{name}'.") from None


# --- what is there


def _read(certificate_file: Path, key_file: Path) -> tuple[x509.Certificate, PrivateKey] | None:
    """A certificate and its key; None when either is missing, damaged, or belongs to another."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    except (FileNotFoundError, ValueError, TypeError):
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.public_key() != key.public_key():
        return None
    return certificate, key


def _may_sign(authority: x509.Certificate, names: tuple[x509.GeneralName, ...], now: datetime) -> bool:
    """Whether the authority is allowed all `names`, and outlives the certificates it would sign now."""
    try:
        limits = authority.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees
    except x509.ExtensionNotFound:
        limits = None  # one that the operator put there
    fits = limits is None or {_constraint(name) for name in names} <= set(limits)
    return fits and authority.not_valid_after_utc > now + SERVER_LIFE


def _serves(
    server: x509.Certificate, authority: x509.Certificate, names: tuple[x509.GeneralName, ...], now: datetime
) -> bool:
    try:
        server.verify_directly_issued_by(authority)
        given = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return set(names) <= set(given) and server.not_valid_after_utc > now + RENEW_BEFORE


# --- what is made


def _make_authority(names: tuple[x509.GeneralName, ...], now: datetime) -> tuple[x509.Certificate, PrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Retouch, this server's own authority")])
    constraints = x509.NameConstraints(permitted_subtrees=[_constraint(each) for each in names], excluded_subtrees=None)
    builder = (
        _unsigned(name, key, name, key, now=now, life=AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(constraints, critical=True)
    )
    return builder.sign(key, hashes.SHA256()), key


def _make_server(
    authority: tuple[x509.Certificate, PrivateKey], names: tuple[x509.GeneralName, ...], now: datetime
) -> tuple[x509.Certificate, PrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Retouch server")])
    builder = (
        _unsigned(name, key, authority[0].subject, authority[1], now=now, life=SERVER_LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    return builder.sign(authority[1], hashes.SHA256()), key


def _unsigned(
    subject: x509.Name, key: PrivateKey, issuer: x509.Name, issuer_key: PrivateKey, *, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    """What both certificates have; strict clients insist on both key identifiers."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SLACK)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _constraint(name: x509.GeneralName) -> x509.GeneralName:
    """The name as a limit on what may be signed; an address is a network of one."""
    if isinstance(name, x509.IPAddress):
        return x509.IPAddress(ipaddress.ip_network(str(name.value)))
    return name


# --- files


def _key_text(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _certificate_text(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _public_authorities() -> bytes:
    """The public authorities: certifi's where it is installed, else the system's, else none."""
    try:
        import certifi

        return Path(certifi.where()).read_bytes()
    except ImportError:
        system = ssl.get_default_verify_paths().cafile
        return Path(system).read_bytes() if system and Path(system).exists() else b""


def _write(path: Path, data: bytes, mode: int) -> None:
    """Whole or not at all, and never readable by others in between."""
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.chmod(mode)
    beside.replace(path)
