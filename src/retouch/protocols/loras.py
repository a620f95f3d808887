"""LoRAs as callers write them: a list of `{path, scale}`, the same as JSON text, or one path alone. No I/O.

The vendors differ in what surrounds the list only; what a path may be and how large a scale is checked elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import orjson

from retouch.edit import Lora
from retouch.errors import InvalidRequest, InvalidType, MissingParameter

_KNOWN = frozenset({"path", "scale", "name"})
"""`name` is a label that some servers want and that means nothing."""


def parse_loras(field: str, value: object) -> tuple[Lora, ...]:
    """The LoRAs of a field; raises InvalidRequest and its kinds, naming the place such as `loras[0].scale`.

    Text is JSON when it begins as a list or an object does, and a path otherwise.
    """
    if isinstance(value, str):
        value = _from_text(field, value.strip())
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list | tuple):
        raise InvalidType(field, "array", value)
    return tuple(_lora(f"{field}[{index}]", entry) for index, entry in enumerate(value))


def parse_scale(field: str, value: object) -> float:
    """A number, also as text."""
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, int | float | str) else float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InvalidType(field, "number", value)
    return number


def _from_text(field: str, text: str) -> object:
    if not text.startswith(("[", "{")):
        return [text] if text else []
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise InvalidType(field, "array", text) from None


def _lora(place: str, entry: object) -> Lora:
    if isinstance(entry, str):
        return Lora(entry.strip())
    if not isinstance(entry, Mapping):
        raise InvalidType(place, "object", entry)
    unknown = next((str(name) for name in entry if name not in _KNOWN), None)
    if unknown is not None:
        raise InvalidRequest(f"The field '{place}' has a path and a scale, but no '{unknown[:60]}'.", field=place)
    path, scale = entry.get("path"), entry.get("scale")
    if path is None:
        raise MissingParameter(f"{place}.path")
    if not isinstance(path, str):
        raise InvalidType(f"{place}.path", "string", path)
    return Lora(path.strip(), 1.0 if scale is None else parse_scale(f"{place}.scale", scale))
