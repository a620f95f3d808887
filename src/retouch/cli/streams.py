"""Keeps the standard streams from failing on a character that their encoding does not have.

`PYTHONIOENCODING=ascii`, a Latin-1 terminal, a file name that is no UTF-8: what cannot be written is written in
another way. Chooses no encoding.
"""

from __future__ import annotations

import codecs
import sys
import unicodedata

_HANDLER = "retouch"
_STAND_INS = {"…": "...", "×": "x", "–": "-", "—": "-", "→": "->", "‘": "'", "’": "'", "“": '"', "”": '"', "━": "-"}


def write_everything() -> None:
    """For this process's output and error streams, from now on."""
    codecs.register_error(_HANDLER, _stand_in)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=_HANDLER)


def _stand_in(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_readable, error.object[error.start : error.end])), error.end


def _readable(character: str) -> str:
    if character in _STAND_INS:
        return _STAND_INS[character]
    if unicodedata.category(character) == "So":  # the frames of a spinner
        return "*"
    return character.encode("ascii", "backslashreplace").decode()
