"""The authority and the certificate of `--tls auto`: kept while they serve, limited to our names, for us alone."""

from __future__ import annotations

import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from retouch.errors import InvalidSetting
from retouch.protocols.fal.vendor_hosts import SERVICES
from retouch.server.certificates import (
    RENEW_BEFORE,
    SERVER_LIFE,
    TlsFiles,
    _certificate_text,
    _general_name,
    _key_text,
    _make_server,
    _read,
    ensure,
    names_for,
    renew_daily,
)

NOW = datetime.now(UTC)
NAMES = names_for("127.0.0.1", None)


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    return ensure(TlsFiles.of(tmp_path), NAMES, NOW)


def texts(files: TlsFiles) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (files.authority, files.authority_key, files.server, files.bundle)}


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def sign(files: TlsFiles, names: tuple[str, ...], now: datetime = NOW) -> None:
    """Put a server certificate of the test's own making in place, signed by the authority."""
    authority = _read(files.authority, files.authority_key)
    assert authority is not None
    made, key = _make_server(authority, tuple(map(_general_name, names)), now)
    files.server.write_bytes(_key_text(key) + _certificate_text(made))


def serving(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.server)
    return context


def shakes_hands(
    files: TlsFiles, name: str, *, trusted: Path | None = None, server: ssl.SSLContext | None = None
) -> bool:
    """Whether a client that trusts `trusted` accepts the server's certificate under `name`."""
    server, client = server or serving(files), ssl.create_default_context(cafile=trusted or files.authority)
    pipes = (ssl.MemoryBIO(), ssl.MemoryBIO())
    ours = server.wrap_bio(pipes[0], pipes[1], server_side=True)
    theirs = client.wrap_bio(pipes[1], pipes[0], server_hostname=name)
    for side in (theirs, ours, theirs, ours):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError:
            return False
    return True


def test_private_keys_are_for_the_owner_only(files: TlsFiles):
    modes = {path.name: path.stat().st_mode & 0o777 for path in files.folder.iterdir()}
    assert modes["authority.key"] == modes["server.pem"] == 0o600
    assert files.folder.stat().st_mode & 0o777 == 0o700
    assert b"PRIVATE" not in files.authority.read_bytes() + files.bundle.read_bytes()


def test_a_mode_that_was_opened_is_closed_again(files: TlsFiles):
    files.authority_key.chmod(0o644)
    files.server.chmod(0o644)
    ensure(files, NAMES, NOW)
    assert {path.stat().st_mode & 0o777 for path in (files.authority_key, files.server)} == {0o600}


def test_a_second_start_changes_nothing(files: TlsFiles):
    before = texts(files)
    ensure(files, NAMES, NOW + timedelta(days=30))
    assert texts(files) == before


def test_a_certificate_near_its_end_is_made_again_by_the_same_authority(files: TlsFiles):
    before = texts(files)
    ensure(files, NAMES, NOW + SERVER_LIFE - RENEW_BEFORE + timedelta(hours=1))
    after = texts(files)
    assert after.pop("server.pem") != before.pop("server.pem")
    assert after == before
    certificate(files.server).verify_directly_issued_by(certificate(files.authority))


def test_an_expired_certificate_is_refused_until_it_is_made_again(files: TlsFiles):
    sign(files, NAMES, NOW - 2 * SERVER_LIFE)
    assert not shakes_hands(files, "localhost")
    ensure(files, NAMES, NOW)
    assert shakes_hands(files, "localhost")


def test_an_authority_near_its_end_is_replaced(files: TlsFiles):
    before = files.authority.read_bytes()
    ensure(files, NAMES, certificate(files.authority).not_valid_after_utc - timedelta(days=100))
    assert files.authority.read_bytes() != before
    assert files.bundle.read_bytes().startswith(files.authority.read_bytes())


def test_fewer_names_keep_the_authority_and_new_ones_replace_it(tmp_path: Path):
    files = ensure(TlsFiles.of(tmp_path), names_for("10.0.0.7", "https://edits.example"), NOW)
    before = files.authority.read_bytes()
    assert shakes_hands(files, "edits.example")
    assert shakes_hands(files, "10.0.0.7")
    ensure(files, NAMES, NOW)
    assert files.authority.read_bytes() == before
    ensure(files, names_for("10.0.0.8", None), NOW)
    assert files.authority.read_bytes() != before
    assert shakes_hands(files, "10.0.0.8")


@pytest.mark.parametrize("name", ["example.com", "10.0.0.1", "fal.ai"])
def test_a_machine_that_trusts_the_authority_risks_no_other_name(files: TlsFiles, name: str):
    """Even the authority's own key cannot make a certificate for another name that clients accept."""
    sign(files, (name, "localhost"))
    assert not shakes_hands(files, name)
    assert not shakes_hands(files, "localhost")


@pytest.mark.parametrize("damage", [b"", b"no certificate", None])
@pytest.mark.parametrize("name", ["authority.pem", "authority.key", "server.pem", "bundle.pem"])
def test_a_damaged_file_is_made_again(files: TlsFiles, name: str, damage: bytes | None):
    if damage is None:
        (files.folder / name).unlink()
    else:
        (files.folder / name).write_bytes(damage)
    ensure(files, NAMES, NOW)
    assert shakes_hands(files, "queue.fal.run")
    assert shakes_hands(files, "queue.fal.run", trusted=files.bundle)


def test_the_bundle_holds_the_public_authorities_too(files: TlsFiles):
    assert len(ssl.create_default_context(cafile=files.bundle).get_ca_certs()) > 100


def test_names_are_ours_the_vendors_and_the_operators():
    assert set(SERVICES) < set(names_for("0.0.0.0", None))
    assert "0.0.0.0" not in names_for("0.0.0.0", None)
    assert names_for("192.168.1.5", "https://edits.example:8443/x")[-2:] == ("192.168.1.5", "edits.example")


def test_a_name_no_certificate_can_bear_is_reported(tmp_path: Path):
    with pytest.raises(InvalidSetting, match="No certificate can be made"):
        ensure(TlsFiles.of(tmp_path), ["a" * 64 + ".example"], NOW)


def test_a_running_server_takes_up_a_renewed_certificate(files: TlsFiles):
    sign(files, NAMES, NOW - 2 * SERVER_LIFE)
    context, stop = serving(files), threading.Event()
    assert not shakes_hands(files, "localhost", server=context)

    def once() -> ssl.SSLContext:
        stop.set()
        return context

    renew_daily(files, NAMES, once, stop, every_s=0.01)
    assert shakes_hands(files, "localhost", server=context)
