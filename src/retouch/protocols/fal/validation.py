"""Checks one JSON body against an endpoint's table and gives typed values by canonical field.

Lenient where the vendor is (a number as text, 1 for true), strict where a mistake would pass silently: a
name that is not in the table is refused. Finds every problem of a body, not the first. Fetches nothing.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, NoReturn, TypeAlias

from retouch.edit import Lora
from retouch.errors import InvalidRequest, InvalidType, MissingParameter, OutOfRange
from retouch.protocols.fal.errors import InvalidBody, Problem
from retouch.protocols.fal.schemas import DEFAULT_SIDE, Endpoint, Kind, Parameter
from retouch.protocols.inputs import parse_loras

Size: TypeAlias = str | tuple[int, int]
Value: TypeAlias = str | int | float | bool | tuple[str, ...] | Size | tuple[Lora, ...]

MAX_DIGITS = 40
"""Of a number that comes as text; none that is allowed is longer."""

_TRUE = frozenset({"true", "1", "yes", "on", "t", "y"})
_FALSE = frozenset({"false", "0", "no", "off", "f", "n"})


class _Refused(Exception):
    """One value does not fit; carried to `check_body`, which collects."""

    def __init__(self, kind: str, message: str, *, at: tuple[str | int, ...] = (), **context: object) -> None:
        super().__init__(message)
        self.kind, self.message, self.at, self.context = kind, message, at, context


def check_body(endpoint: Endpoint, body: Mapping[str, Any]) -> dict[str, Value]:
    """Typed values by canonical field, the endpoint's own defaults filled in; an open field is left out.

    A value of null counts as absent. Raises InvalidBody with every problem.
    """
    problems = [_unknown(endpoint, name) for name in body if endpoint.parameter(name) is None]
    values: dict[str, Value] = {}
    for parameter in endpoint.parameters:
        raw = body.get(parameter.name)
        if raw is None and parameter.required:
            problems.append(Problem((parameter.name,), "Field required", "missing"))
        elif raw is None:
            if parameter.default is not None and not parameter.by_model:
                values[parameter.canonical] = parameter.default
        else:
            try:
                values[parameter.canonical] = _READERS[parameter.kind](parameter, raw)
            except _Refused as refused:
                loc = (parameter.name, *refused.at)
                problems.append(Problem(loc, refused.message, refused.kind, refused.context))
    if problems:
        raise InvalidBody(tuple(problems))
    return values


def _unknown(endpoint: Endpoint, name: str) -> Problem:
    near = difflib.get_close_matches(name[:60], [p.name for p in endpoint.parameters], n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return Problem((name[:60],), f"There is no such input in {endpoint.id}{hint}", "extra_forbidden")


def _string(parameter: Parameter, raw: object) -> str:
    if not isinstance(raw, str):
        _refuse_type("string")
    if parameter.max_length is not None and len(raw) > parameter.max_length:
        limit = parameter.max_length
        raise _Refused(
            "string_too_long",
            f"String should have at most {limit} characters; this one has {len(raw)}",
            max_length=limit,
        )
    return raw


def _integer(parameter: Parameter, raw: object) -> int:
    return int(_in_range(parameter, _as_integer(raw)))


def _as_integer(raw: object) -> int:
    if isinstance(raw, bool) or not isinstance(raw, (int, float, str)):
        _refuse_type("integer", "int_type")
    if isinstance(raw, int):
        return raw
    try:
        # Exact where a float would round: the largest seeds have 19 digits.
        number = Decimal(raw.strip() if isinstance(raw, str) else raw)
    except ArithmeticError:
        _refuse_type("integer", "int_parsing")
    if not number.is_finite() or number.adjusted() > MAX_DIGITS or (isinstance(raw, str) and len(raw) > MAX_DIGITS):
        _refuse_type("integer", "int_parsing")
    if number != number.to_integral_value():
        raise _Refused("int_from_float", "Input should be a valid integer, got a number with a fractional part")
    return int(number)


def _number(parameter: Parameter, raw: object) -> float:
    if isinstance(raw, bool) or not isinstance(raw, (int, float, str)):
        _refuse_type("number", "float_type")
    try:
        number = float(raw)
    except (ValueError, OverflowError):
        _refuse_type("number", "float_parsing")
    if not math.isfinite(number):
        raise _Refused("finite_number", "Input should be a finite number")
    return _in_range(parameter, number)


def _in_range(parameter: Parameter, number: float) -> float:
    low, high = parameter.minimum, parameter.maximum
    if low is not None and number < low:
        raise _Refused("greater_than_equal", f"Input should be greater than or equal to {low}", ge=low)
    if high is not None and number > high:
        raise _Refused("less_than_equal", f"Input should be less than or equal to {high}", le=high)
    return number


def _boolean(_: Parameter, raw: object) -> bool:
    if isinstance(raw, bool):
        return raw
    if not isinstance(raw, (int, str)):
        _refuse_type("boolean", "bool_type")
    word = str(raw).strip().lower()[:10]
    if word not in _TRUE | _FALSE:
        _refuse_type("boolean", "bool_parsing")
    return word in _TRUE


def _word(parameter: Parameter, raw: object) -> str:
    if isinstance(raw, str):
        word = raw.strip().lower()
        word = (parameter.also or {}).get(word, word)
        if word in parameter.choices:
            return word
    words = ", ".join(f"'{word}'" for word in parameter.choices)
    raise _Refused("one_of", f"Input should be one of {words}", expected=list(parameter.choices))


def _links(parameter: Parameter, raw: object) -> tuple[str, ...]:
    if not isinstance(raw, list):
        _refuse_type("list")
    if parameter.min_length is not None and len(raw) < parameter.min_length:
        low = parameter.min_length
        raise _Refused("sequence_too_short", f"There should be at least {low} of them, not {len(raw)}", min_length=low)
    if parameter.max_length is not None and len(raw) > parameter.max_length:
        high = parameter.max_length
        raise _Refused("sequence_too_long", f"There should be at most {high} of them, not {len(raw)}", max_length=high)
    for index, entry in enumerate(raw):
        if not isinstance(entry, str):
            _refuse_type("string", at=(index,))
    return tuple(raw)


def _loras(parameter: Parameter, raw: object) -> tuple[Lora, ...]:
    """A list, or the same as text, see `parse_loras`."""
    try:
        loras = parse_loras(parameter.name, raw)
        for index, lora in enumerate(loras):
            lora.check(f"{parameter.name}[{index}]")
    except InvalidRequest as error:
        raise _refused_as(parameter, error) from None
    if parameter.max_length is not None and len(loras) > parameter.max_length:
        high = parameter.max_length
        raise _Refused(
            "sequence_too_long", f"There should be at most {high} of them, not {len(loras)}", max_length=high
        )
    return loras


def _refused_as(parameter: Parameter, error: InvalidRequest) -> _Refused:
    """An error of the canonical form in this table's words, at its place in the body."""
    place = tuple(int(part) if part.isdecimal() else part for part in re.findall(r"\w+", error.field or "")[1:])
    match error:
        case MissingParameter():
            return _Refused("missing", "Field required", at=place)
        case InvalidType():
            expected = str(error.context["expected_type"])
            kind = {"array": "list_type", "object": "dict_type", "number": "float_parsing"}.get(expected)
            return _Refused(kind or f"{expected}_type", f"Input should be a valid {expected}", at=place)
        case OutOfRange():
            low, high = parameter.minimum, parameter.maximum
            return _Refused("less_than_equal", f"Input should be from {low} to {high:g}", at=place, ge=low, le=high)
    return _Refused("value_error", error.message, at=place)


def _image_size(parameter: Parameter, raw: object) -> Size:
    if not isinstance(raw, Mapping):
        return _word(parameter, raw)
    unknown = [str(name) for name in raw if name not in ("width", "height")]
    if unknown:
        message = "A size has width and height only"
        raise _Refused("extra_forbidden", message, at=(unknown[0][:60],))
    width, height = (_side(parameter, raw, name) for name in ("width", "height"))
    area = width * height
    if parameter.min_pixels is not None and area < parameter.min_pixels:
        raise _Refused("greater_than_equal", f"There should be at least {parameter.min_pixels} pixels, not {area}",
                       ge=parameter.min_pixels)  # fmt: skip
    if parameter.max_pixels is not None and area > parameter.max_pixels:
        raise _Refused("less_than_equal", f"There should be at most {parameter.max_pixels} pixels, not {area}",
                       le=parameter.max_pixels)  # fmt: skip
    return width, height


def _side(parameter: Parameter, size: Mapping[Any, Any], name: str) -> int:
    raw = size.get(name)
    try:
        side = DEFAULT_SIDE if raw is None else _as_integer(raw)
    except _Refused as refused:
        raise _Refused(refused.kind, refused.message, at=(name,)) from None
    if side <= 0:
        raise _Refused("greater_than", "Input should be greater than 0", at=(name,), gt=0)
    if parameter.maximum is not None and side > parameter.maximum:
        limit = int(parameter.maximum)
        raise _Refused("less_than_equal", f"Input should be less than or equal to {limit}", at=(name,), le=limit)
    return side


def _refuse_type(expected: str, kind: str | None = None, *, at: tuple[str | int, ...] = ()) -> NoReturn:
    raise _Refused(kind or f"{expected}_type", f"Input should be a valid {expected}", at=at)


_READERS: Mapping[Kind, Callable[[Parameter, object], Value]] = {
    Kind.STRING: _string,
    Kind.INTEGER: _integer,
    Kind.NUMBER: _number,
    Kind.BOOLEAN: _boolean,
    Kind.WORD: _word,
    Kind.LINK: _string,
    Kind.LINKS: _links,
    Kind.IMAGE_SIZE: _image_size,
    Kind.LORAS: _loras,
}
