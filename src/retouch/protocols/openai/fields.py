"""Reads named values of a call with the type they should have, whatever form they arrived in.

Form text and native JSON values give the same result. `Fields` remembers which name was read for what,
so that errors point at what the caller wrote and nothing is ignored in silence. It knows no parameter.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from retouch.edit import Notice
from retouch.errors import InvalidRequest, InvalidType, NotOneOf

_ABSENT_WORDS = frozenset({"", "null", "None", "undefined"})
_TRUE = frozenset({"true", "1", "on", "yes"})
_FALSE = frozenset({"false", "0", "off", "no"})
_INTEGER = re.compile(r"[+-]?\d{1,30}(\.0*)?")


class Fields:
    """The named values of one call.

    written: canonical name to the name the caller used. notices: parameters not used as written.
    """

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values
        self._read: set[str] = set()
        self.written: dict[str, str] = {}
        self.notices: list[Notice] = []

    def take(self, canonical: str, *names: str) -> tuple[str, object | None]:
        """(name, value) of the first of `names` that is present, or (canonical, None).

        Without `names` the name is the canonical one. A second alias beside the first is reported as
        ignored.
        """
        found: tuple[str, object | None] | None = None
        for name in names or (canonical,):
            self._read.add(name)
            value = self._values.get(name)
            if is_absent(value):
                continue
            if found is None:
                found = (name, value)
                self.written[canonical] = name
            elif value != found[1]:
                self.notice(name, "ignored", f"'{found[0]}' was given too and was used.")
        return found or (canonical, None)

    def exactly(self, name: str) -> object | None:
        """The value under `name` as it came, blank or not."""
        self._read.add(name)
        return self._values.get(name)

    def text(self, canonical: str, *names: str) -> str | None:
        name, value = self.take(canonical, *names)
        return None if value is None else to_text(name, value)

    def word(self, canonical: str, allowed: Sequence[str], *names: str) -> str | None:
        """One of `allowed`, in small letters."""
        name, value = self.take(canonical, *names)
        if value is None:
            return None
        word = to_text(name, value).strip().lower()
        if word not in allowed:
            raise NotOneOf(name, word, tuple(allowed))
        return word

    def integer(self, canonical: str, *names: str) -> int | None:
        name, value = self.take(canonical, *names)
        return None if value is None else to_integer(name, value)

    def number(self, canonical: str, *names: str) -> float | None:
        name, value = self.take(canonical, *names)
        return None if value is None else to_number(name, value)

    def boolean(self, canonical: str, *names: str) -> bool | None:
        name, value = self.take(canonical, *names)
        return None if value is None else to_boolean(name, value)

    def notice(self, parameter: str, action: str, detail: str) -> None:
        self.notices.append(Notice(parameter, action, detail))

    def unread(self) -> tuple[str, ...]:
        """Names that nobody asked for, in the caller's order."""
        return tuple(name for name in self._values if name not in self._read)


def is_absent(value: object) -> bool:
    """Whether an optional parameter with this value was not given: null, blank, or a word for null."""
    return value is None or (isinstance(value, str) and value.strip() in _ABSENT_WORDS)


def to_text(name: str, value: object) -> str:
    if isinstance(value, str):
        if "\0" in value:
            raise InvalidRequest(f"The field '{name}' holds a NUL character.", field=name)
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:g}" if isinstance(value, float) else str(value)
    raise InvalidType(name, "string", _printable(value))


def to_integer(name: str, value: object) -> int:
    """Whole numbers, also as `4.0`, `"4"` and `"4.0"`."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
        return int(value.strip().partition(".")[0])
    raise InvalidType(name, "integer", _printable(value))


def to_number(name: str, value: object) -> float:
    """Finite numbers, also as text."""
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise InvalidType(name, "number", _printable(value))


def to_boolean(name: str, value: object) -> bool:
    """true and false, and the words and digits forms use for them."""
    word = str(value).strip().lower() if isinstance(value, bool | int | str) else ""
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise InvalidType(name, "boolean", _printable(value))


def _printable(value: object) -> object:
    return "a file" if isinstance(value, bytes) else value
