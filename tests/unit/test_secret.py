"""A secret shows a mask and a fingerprint whatever is done with it, and no log line holds one."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import traceback
from dataclasses import asdict, dataclass

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retouch.secret import MASK, Secret, redact

VALUE = "sk-live-0123456789abcdef"
MASKED = repr(Secret(VALUE))


@dataclass(frozen=True)
class Holder:
    key: Secret


WAYS = {
    "repr": repr,
    "str": str,
    "format": lambda secret: f"{secret:>40}",
    "template": lambda secret: f"{secret} {secret!r}",
    "in a list": lambda secret: str([secret]),
    "in a dataclass": lambda secret: repr(Holder(secret)),
    "as a dictionary": lambda secret: str(asdict(Holder(secret))),
    "json": lambda secret: json.dumps({"key": secret}, default=str, ensure_ascii=False),
    "orjson": lambda secret: orjson.dumps({"key": secret}, default=str).decode(),
    "pickle": lambda secret: str(pickle.loads(pickle.dumps(Holder(secret)))),
    "pickled bytes": lambda secret: pickle.dumps(secret).decode("utf-8", "replace"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_secret_shows_a_mask_and_its_fingerprint(way: str) -> None:
    secret = Secret(VALUE)
    text = WAYS[way](secret)
    assert MASK in text
    assert secret.fingerprint in text
    assert VALUE not in text
    assert VALUE[-8:] not in text


def test_json_without_a_default_refuses_a_secret() -> None:
    with pytest.raises(TypeError):
        orjson.dumps({"key": Secret(VALUE)})


def test_a_traceback_with_local_variables_shows_no_secret() -> None:
    def fail(key: Secret) -> None:
        raise RuntimeError(f"the provider refused {key}")

    try:
        fail(Secret(VALUE))
    except RuntimeError as error:
        report = traceback.TracebackException.from_exception(error, capture_locals=True)
        text = "".join(report.format())
    assert VALUE not in text
    assert MASKED in text


def test_copies_are_the_same_secret() -> None:
    secret = Secret(VALUE)
    assert copy.copy(secret) is secret
    assert copy.deepcopy(Holder(secret)).key is secret


def test_fingerprints_are_eight_digits_and_differ() -> None:
    first, second = Secret(VALUE), Secret(VALUE + "x")
    assert len(first.fingerprint) == 8
    assert int(first.fingerprint, 16) >= 0
    assert first.fingerprint != second.fingerprint
    assert first == Secret(VALUE)
    assert first != second


def test_what_a_provider_echoes_is_taken_out_by_value() -> None:
    secret = Secret("Zz-echoed/key+with=signs")
    redacted = redact("Incorrect API key provided: Zz-echoed/key+with=signs. See our site.")
    assert redacted == f"Incorrect API key provided: {secret}. See our site."


@given(st.text(min_size=6, max_size=40).filter(lambda text: MASK not in text), st.text(), st.text())
def test_no_text_keeps_a_loaded_value(value: str, before: str, after: str) -> None:
    Secret(value)
    assert value not in redact(before + value + after) or value in repr(Secret(value))


def test_no_log_line_of_a_process_holds_a_loaded_secret() -> None:
    script = """
import logging, structlog
from retouch.cli.process import set_up_logging
from retouch.secret import Secret
set_up_logging("debug")
secret = Secret("sk-live-in-the-log-0001")
log = structlog.get_logger("retouch.test")
log.info("submitted", key=secret, headers={"authorization": ["Bearer sk-live-in-the-log-0001"]})
log.warning("told sk-live-in-the-log-0001")
try:
    raise RuntimeError("provider said sk-live-in-the-log-0001")
except RuntimeError:
    log.exception("failed")
    logging.getLogger("httpx2").exception("also sk-live-in-the-log-0001")
print("done")
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert "sk-live" not in ran.stdout + ran.stderr
    assert ran.stderr.count(MASK) >= 5
    assert "provider said" in ran.stderr
