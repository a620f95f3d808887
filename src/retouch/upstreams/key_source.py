"""Where the key to a provider comes from: a variable, a file, or the caller. The routes file never holds it."""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from retouch.errors import InvalidSetting
from retouch.secret import Secret, remember

FORMS: Final = "env:NAME, file:PATH or caller:NAME"

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CALLERS: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_OTHERS: Final = stat.S_IROTH | stat.S_IWOTH
_MOST_CHARACTERS: Final = 4096


@dataclass(frozen=True, slots=True)
class KeySource:
    """secret: the key itself, once read. caller: the name under which each caller has stored their own; no other is
    used then. Neither for a provider that wants no key.
    """

    secret: Secret | None = None
    caller: str | None = None


def read_key(written: str, folder: Path, environment: Mapping[str, str]) -> KeySource:
    """The key that `written` points to. folder: of the routes file, for relative paths.

    Raises InvalidSetting with a sentence that repeats no part of a key that stands there itself.
    """
    form, colon, rest = written.partition(":")
    if colon and form == "env":
        if not _NAME.fullmatch(rest):
            raise InvalidSetting(f"'{rest[:60]}' is no name of a variable.")
        value = environment.get(rest, "")
        if not value.strip():
            raise InvalidSetting(f"the variable {rest} is not set.")
        return KeySource(_secret(value.strip(), f"the variable {rest}"))
    if colon and form == "file":
        return KeySource(_secret(_text_of(folder / rest), f"the file {rest}"))
    if colon and form == "caller":
        if not _CALLERS.fullmatch(rest):
            raise InvalidSetting(
                "a caller's key is named in small letters, digits, '-' and '_', such as caller:studio."
            )
        return KeySource(caller=rest)
    remember(written, "••••")
    raise InvalidSetting(f"a key is never written here itself; write {FORMS}, and replace the key that stood here.")


def _text_of(file: Path) -> str:
    try:
        if file.stat().st_mode & _OTHERS:
            raise InvalidSetting(f"the file {file} may be read or changed by every user of this machine; chmod 600 it.")
        return file.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise InvalidSetting(f"the file {file} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise InvalidSetting(f"the file {file} is not UTF-8.") from None


def _secret(value: str, where: str) -> Secret:
    if not value:
        raise InvalidSetting(f"{where} is empty.")
    if len(value) > _MOST_CHARACTERS or not (value.isascii() and value.isprintable()) or " " in value:
        raise InvalidSetting(f"{where} holds what no header may: a key is one line of printable ASCII without blanks.")
    return Secret(value)
