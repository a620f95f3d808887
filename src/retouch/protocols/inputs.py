"""Inputs that faces read alike, as JSON or as its text: numbers, switches, LoRAs, options of hosted providers. No I/O.

The vendors differ in what surrounds them only; what a path may be and how large a scale is checked elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import orjson

from retouch.catalog.normaliser import check_upstream_options
from retouch.edit import Lora
from retouch.errors import InvalidRequest, InvalidType, MissingParameter

_TRUE, _FALSE = frozenset({"true", "1", "yes", "on"}), frozenset({"false", "0", "no", "off"})

_LORA_MEMBERS = frozenset({"path", "scale", "name"})
"""`name` is a label that some servers want and that means nothing."""

UPSTREAM_OPTIONS = "upstream_options"
"""The field with parameters of hosted providers, by kind, that every face passes on as they are."""

MAX_OPTIONS_BYTES = 20_000
"""Of all of them, as JSON: they are kept with the job."""


def parse_number(field: str, value: object) -> float:
    """A finite number, also as text; raises InvalidType."""
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, int | float | str) else float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InvalidType(field, "number", value)
    return number


def parse_boolean(field: str, value: object) -> bool:
    """true and false, and the words and digits that forms use for them; raises InvalidType."""
    word = str(value).strip().lower() if isinstance(value, bool | int | str) else ""
    if word not in _TRUE | _FALSE:
        raise InvalidType(field, "boolean", value)
    return word in _TRUE


def parse_loras(field: str, value: object) -> tuple[Lora, ...]:
    """The LoRAs of a field; raises InvalidRequest and its kinds, naming the place such as `loras[0].scale`.

    Text is JSON when it begins as a list or an object does, and a path otherwise.
    """
    if isinstance(value, str):
        text = value.strip()
        if text.startswith(("[", "{")):
            try:
                value = orjson.loads(text)
            except orjson.JSONDecodeError:
                raise InvalidType(field, "array", text) from None
        else:
            value = [text] if text else []
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list | tuple):
        raise InvalidType(field, "array", value)
    return tuple(_lora(f"{field}[{index}]", entry) for index, entry in enumerate(value))


def _lora(place: str, entry: object) -> Lora:
    if isinstance(entry, str):
        return Lora(entry.strip())
    if not isinstance(entry, Mapping):
        raise InvalidType(place, "object", entry)
    unknown = next((str(name) for name in entry if name not in _LORA_MEMBERS), None)
    if unknown is not None:
        raise InvalidRequest(f"The field '{place}' has a path and a scale, but no '{unknown[:60]}'.", field=place)
    path, scale = entry.get("path"), entry.get("scale")
    if path is None:
        raise MissingParameter(f"{place}.path")
    if not isinstance(path, str):
        raise InvalidType(f"{place}.path", "string", path)
    return Lora(path.strip(), 1.0 if scale is None else parse_number(f"{place}.scale", scale))


def read_upstream_options(value: object) -> dict[str, Mapping[str, Any]]:
    """The options of a call that has some: an object, or the text of one. Raises InvalidRequest naming them."""
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            raise InvalidType(UPSTREAM_OPTIONS, "object", value) from None
    if not isinstance(value, dict) or not all(isinstance(options, dict) for options in value.values()):
        raise InvalidType(UPSTREAM_OPTIONS, "object", value)
    try:
        as_json = orjson.dumps(value)
    except TypeError:  # bytes, say, in what did not come as JSON
        raise InvalidType(UPSTREAM_OPTIONS, "object", value) from None
    check_upstream_options(value)
    if len(as_json) > MAX_OPTIONS_BYTES:
        too_long = f"The field '{UPSTREAM_OPTIONS}' is longer than {MAX_OPTIONS_BYTES} bytes of JSON."
        raise InvalidRequest(too_long, field=UPSTREAM_OPTIONS)
    return value
