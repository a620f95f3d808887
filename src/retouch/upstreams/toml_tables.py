"""Takes the tables of a parsed TOML file apart by name and type, and keeps every mistake with its line.

On which line a value stands the standard library's parser does not tell. The file has been parsed already when that is
asked, so it is known to be TOML: only headers, keys and brackets are followed.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from retouch.errors import InvalidSetting

Place: TypeAlias = tuple[str | int, ...]
"""Keys and indexes from the root, such as ("routes", 1, "targets", 0, "to")."""

MOST: Final = 1_000_000_000
"""No number of a routes file means anything beyond; as seconds it is within what a date can hold."""

_KEY = re.compile(r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=""")
_HEADER = re.compile(r"\s*(\[\[?)(.*?)\]\]?\s*(?:#.*)?$")
_STRING = re.compile(r'"(?:\\.|[^"\\])*"|\'[^\']*\'')


class InvalidRoutesFile(InvalidSetting):
    """problems: each a line number and a sentence."""

    def __init__(self, path: Path, problems: Iterable[tuple[int, str]]) -> None:
        self.problems = tuple(sorted(set(problems)))
        super().__init__("\n".join(f"{path}, line {line}: {reason}" for line, reason in self.problems))


class Problems:
    """The mistakes of one file. lines: where its values stand."""

    def __init__(self, lines: TomlLines) -> None:
        self.found: list[tuple[int, str]] = []
        self.lines = lines

    def add(self, place: Place, reason: str) -> None:
        self.found.append((self.lines.line_of(place), reason))


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


@dataclass(frozen=True, slots=True)
class _Statement:
    """A header, or a key with its value. line: from 1. text: of all its lines."""

    place: Place
    line: int
    text: str


class TomlLines:
    """Answers `line_of` for one file's text."""

    def __init__(self, text: str) -> None:
        self._statements = tuple(_statements(text))

    def line_of(self, place: Place) -> int:
        """The line, counted from 1, of the nearest that is written out: a key, what holds it, or the first line."""
        for length in range(len(place), 0, -1):
            for statement in self._statements:
                if statement.place == place[:length]:
                    return statement.line + _lines_before(statement.text, place[length:])
        return 1


def _statements(text: str) -> Iterator[_Statement]:
    table: Place = ()
    counts: dict[Place, int] = {}
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        line, begin = lines[at], at
        at += 1
        header = _HEADER.match(line)
        if header:
            names = _parts(f"{header[2]} = 0")
            table = ()
            for index, name in enumerate(names):
                table = (*table, name)
                if header[1] == "[[" and index == len(names) - 1:
                    counts[table] = counts.get(table, -1) + 1
                if table in counts:  # an array of tables so far: its last member is meant
                    table = (*table, counts[table])
            yield _Statement(table, begin + 1, line)
            continue
        key = _KEY.match(line)
        if key:
            value = line
            while at < len(lines) and not _is_whole(value):
                value += "\n" + lines[at]
                at += 1
            yield _Statement((*table, *_parts(f"{key[1]} = 0")), begin + 1, value)


def _is_whole(statement: str) -> bool:
    try:
        tomllib.loads(statement)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _parts(statement: str) -> tuple[str, ...]:
    """The names of a dotted key, in order."""
    value: Any = tomllib.loads(statement)
    names: list[str] = []
    while isinstance(value, Mapping):
        name, value = next(iter(value.items()))
        names.append(name)
    return tuple(names)


def _lines_before(text: str, rest: Place) -> int:
    """How many lines of a statement stand before a member inside its value."""
    begin = text.find("=") + 1
    for part in rest:
        if isinstance(part, int):
            found = _member(text, begin, part)
        else:
            match = re.compile(rf"""["']?{re.escape(part)}["']?\s*=""").search(text, begin)
            found = match.start() if match else None
        if found is None:
            break
        begin = found
    return text.count("\n", 0, begin)


def _member(text: str, begin: int, index: int) -> int | None:
    """Where the member with this index begins, in an array that opens at or behind `begin`."""
    # The same length, with the inside of strings and comments blanked, so that brackets in them do not count.
    plain = _STRING.sub(lambda match: '"' + "_" * (len(match[0]) - 2) + '"', text)
    plain = re.sub(r"#[^\n]*", lambda match: " " * len(match[0]), plain)
    opened = plain.find("[", begin)
    if opened < 0:
        return None
    depth, count = 0, 0
    for at in range(opened, len(plain)):
        character = plain[at]
        depth += character in "[{"
        depth -= character in "]}"
        starts = depth == (2 if character in "[{" else 1) and not character.isspace() and character not in "[],}"
        if character == "{" and depth == 2 and count == index:
            return at
        if starts and character != "{" and count == index:
            return at
        count += character == "," and depth == 1
        if depth == 0:
            return None
    return None
