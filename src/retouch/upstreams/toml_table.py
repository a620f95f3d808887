"""Takes the tables of a parsed TOML file apart by name and type, and keeps every mistake with its line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from retouch.errors import InvalidSetting
from retouch.upstreams.toml_lines import Place, TomlLines

MOST: Final = 1_000_000_000
"""No number of a routes file means anything beyond; as seconds it is within what a date can hold."""


class InvalidRoutesFile(InvalidSetting):
    """problems: each a line number and a sentence."""

    def __init__(self, path: Path, problems: Iterable[tuple[int, str]]) -> None:
        self.problems = tuple(sorted(set(problems)))
        super().__init__("\n".join(f"{path}, line {line}: {reason}" for line, reason in self.problems))


class Problems:
    """The mistakes of one file."""

    def __init__(self, lines: TomlLines) -> None:
        self.found: list[tuple[int, str]] = []
        self._lines = lines

    def add(self, place: Place, reason: str) -> None:
        self.found.append((self._lines.line_of(place), reason))


class Table:
    """A table of the file whose members are taken one by one; what is left over was not known."""

    def __init__(self, problems: Problems, place: Place, value: object) -> None:
        self.place = place
        self._problems = problems
        self._left = dict(value) if isinstance(value, Mapping) else {}
        if not isinstance(value, Mapping):
            problems.add(place, f"'{place[-1] if place else ''}' must be a table.")
        self._known: list[str] = []

    def has(self, name: str) -> bool:
        return name in self._left

    def problem(self, name: str, reason: str) -> None:
        self._problems.add((*self.place, name), reason)

    def take(self, name: str, of: type | tuple[type, ...], what: str, default: Any = None) -> Any:
        """The member when it is `of` the type that `what` names; `default` when it is absent or wrong."""
        self._known.append(name)
        if name not in self._left:
            return default
        value = self._left.pop(name)
        if isinstance(value, bool) and bool not in (of if isinstance(of, tuple) else (of,)):
            pass
        elif isinstance(value, of):
            return value
        self.problem(name, f"'{name}' must be {what}.")
        return default

    def text(self, name: str, default: str | None = None) -> str | None:
        value: str | None = self.take(name, str, "a text", default)
        return value

    def word(self, name: str, allowed: Iterable[str], default: str) -> str:
        value = self.text(name, default) or ""
        if value not in allowed:
            self.problem(name, f"'{name}' must be one of {', '.join(allowed)}, not '{value[:40]}'.")
            return default
        return value

    def switch(self, name: str, *, default: bool = False) -> bool:
        return bool(self.take(name, bool, "true or false", default))

    def number(self, name: str, default: float | None = None, *, least: float = 0.0) -> float | None:
        value: float | None = self.take(name, (int, float), "a number", default)
        return self._at_least(name, value, least, default)

    def count(self, name: str, default: int | None = None, *, least: int = 1) -> int | None:
        value: int | None = self.take(name, int, "a whole number", default)
        checked = self._at_least(name, value, least, default)
        return None if checked is None else int(checked)

    def _at_least(self, name: str, value: float | None, least: float, default: float | None) -> float | None:
        if value is None or least <= value <= MOST:
            return value
        bound = f"at most {MOST:,}" if value > MOST else f"at least {least:g}"
        self.problem(name, f"'{name}' must be {bound}, not {str(value)[:30]}.")
        return default

    def texts(self, name: str) -> tuple[str, ...]:
        values = self.take(name, list, "a list of texts", [])
        if all(isinstance(value, str) for value in values):
            return tuple(values)
        self.problem(name, f"'{name}' must be a list of texts.")
        return ()

    def table(self, name: str) -> Table | None:
        value = self.take(name, dict, "a table")
        return None if value is None else Table(self._problems, (*self.place, name), value)

    def tables(self, name: str) -> Iterator[Table]:
        """The members of an array of tables."""
        for index, value in enumerate(self.take(name, list, "a list of tables", [])):
            yield Table(self._problems, (*self.place, name, index), value)

    def members(self) -> Iterator[tuple[str, Any]]:
        """All that is left, whatever its name."""
        taken, self._left = self._left, {}
        yield from taken.items()

    def end(self) -> None:
        """Tell of every member that nothing took."""
        for name in self._left:
            self.problem(name, f"'{name[:60]}' is not known here; {near(name, self._known)}")


def near(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about a word that is not known."""
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1)
    return f"did you mean '{close[0]}'?" if close else f"there are {', '.join(names)}."
