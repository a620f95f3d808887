"""Keys to other services: one type that never shows what it holds, and the words that stand in its place.

A provider echoes keys in its messages, and an exception carries what was on the wire; so every secret that is loaded is
also remembered here, and `redact` takes it out of any text by its value. Nothing else of ours keeps a key as text.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from typing import Any

MASK = "••••"

_SHORTEST_REDACTED = 6
"""Characters. A shorter text occurs by chance, and taking it out would garble every line."""

_loaded: dict[str, str] = {}  # value to what stands in its place
_lock = threading.Lock()


class Secret:
    """A key. Shown, formatted, serialised or pickled it is `•••• 1a2b3c4d`, where the digits are its fingerprint.

    Only what writes it into a header calls `open`. Making one registers its value with `redact`.
    """

    __slots__ = ("_value", "fingerprint")

    def __init__(self, value: str) -> None:
        self._value = value
        self.fingerprint = hashlib.sha256(b"retouch secret\0" + value.encode()).hexdigest()[:8]
        remember(value, str(self))

    def open(self) -> str:
        """The key itself, for a header."""
        return self._value

    def __repr__(self) -> str:
        return f"{MASK} {self.fingerprint}"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (repr(self),)  # what is pickled is what is shown

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, _memo: Mapping[int, object]) -> Secret:
        return self


def remember(value: str, stand_in: str) -> None:
    """Have `redact` replace a value; for secrets that live elsewhere than in a `Secret`."""
    if len(value) >= _SHORTEST_REDACTED:
        with _lock:
            _loaded[value] = stand_in


def redact(text: str) -> str:
    """`text` with every secret that this process has loaded replaced by its stand-in."""
    for value, stand_in in tuple(_loaded.items()):
        if value in text:
            text = text.replace(value, stand_in)
    return text


def redact_line(_logger: object, _method: str, line: Any) -> str:
    """The last structlog processor: the finished line, with whatever a renderer made of exceptions and objects."""
    return redact(str(line))
