"""On which line of a TOML file a value stands, which the standard library's parser does not tell.

The file has been parsed already, so it is known to be TOML: this only follows headers, keys and brackets.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Place: TypeAlias = tuple[str | int, ...]
"""Keys and indexes from the root, such as ("routes", 1, "targets", 0, "to")."""

_KEY = re.compile(r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=""")
_HEADER = re.compile(r"\s*(\[\[?)(.*?)\]\]?\s*(?:#.*)?$")
_STRING = re.compile(r'"(?:\\.|[^"\\])*"|\'[^\']*\'')


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
            table = _place_of_header(header, counts)
            yield _Statement(table, begin + 1, line)
            continue
        key = _KEY.match(line)
        if key:
            value = line
            while at < len(lines) and not _is_whole(value):
                value += "\n" + lines[at]
                at += 1
            yield _Statement((*table, *_parts(f"{key[1]} = 0")), begin + 1, value)


def _place_of_header(header: re.Match[str], counts: dict[Place, int]) -> Place:
    """Indexes are put in where a name is an array of tables so far."""
    names = _parts(f"{header[2]} = 0")
    place: Place = ()
    for index, name in enumerate(names):
        place = (*place, name)
        if header[1] == "[[" and index == len(names) - 1:
            counts[place] = counts.get(place, -1) + 1
        if place in counts:
            place = (*place, counts[place])
    return place


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
        found = _member(text, begin, part) if isinstance(part, int) else _named(text, begin, part)
        if found is None:
            break
        begin = found
    return text.count("\n", 0, begin)


def _member(text: str, begin: int, index: int) -> int | None:
    """Where the member with this index begins, in an array that opens at or behind `begin`."""
    plain = _without_strings(text)
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


def _named(text: str, begin: int, name: str) -> int | None:
    match = re.compile(rf"""["']?{re.escape(name)}["']?\s*=""").search(text, begin)
    return match.start() if match else None


def _without_strings(text: str) -> str:
    """The same length, with the inside of strings and comments blanked, so that brackets in them do not count."""
    blanked = _STRING.sub(lambda match: '"' + "_" * (len(match[0]) - 2) + '"', text)
    return re.sub(r"#[^\n]*", lambda match: " " * len(match[0]), blanked)
