"""How log lines look, read from a process of its own: logging is set up once in a process."""

from __future__ import annotations

import subprocess
import sys

from tests.live_server import clean_environment

PROGRAM = """
import logging
from retouch.cli.process import set_up_logging

def called_with(authorization):
    raise ZeroDivisionError("a bug")

set_up_logging("info")
try:
    called_with("Key " + "-".join(("the", "secret")))
except ZeroDivisionError:
    logging.getLogger("a.library").exception("it failed")
"""


def test_a_traceback_of_a_library_shows_no_values() -> None:
    command = [sys.executable, "-c", PROGRAM]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, env=clean_environment())
    assert "ZeroDivisionError: a bug" in ended.stderr
    assert "called_with" in ended.stderr
    assert "the-secret" not in ended.stderr
