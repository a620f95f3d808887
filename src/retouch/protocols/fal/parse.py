"""From the wire to canonical values: paths, headers and query, JSON, and a submitted body as an edit.

Lenient where the vendor is (a number as text, 1 for true, headers it does not know), strict where a mistake would pass
silently: an input that is not in its endpoint's table (`schemas.py`) is refused. Every problem of a body is found, not
the first. Reads plain mappings and does no I/O: images stay the text that the caller wrote.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NoReturn, TypeAlias

import orjson

from retouch import sizes
from retouch.edit import MAX_RETENTION_S, Acceleration, EditRequest, Lora, Notice, OutputFormat, SizeRequest
from retouch.errors import InvalidRequest, InvalidType, MissingParameter, OutOfRange, UnknownModel
from retouch.jobs.job import MAX_IDEMPOTENCY_KEY_CHARACTERS, PRIORITY_LOW, PRIORITY_NORMAL
from retouch.protocols.fal.errors import BadRequest, InvalidBody, Problem
from retouch.protocols.fal.schemas import DEFAULT_SIDE, ENDPOINTS, Endpoint, Kind, Parameter
from retouch.protocols.inputs import UPSTREAM_OPTIONS, parse_loras, read_upstream_options

# --- paths


@dataclass(frozen=True, slots=True)
class RequestPath:
    """`{base}/requests/{id}[/{action}]`; action is `result`, `status`, `stream` or `cancel`."""

    base: str
    request_id: str
    action: str


_ACTIONS: Mapping[tuple[str, ...], str] = {
    (): "result",
    ("response",): "result",
    ("status",): "status",
    ("status", "stream"): "stream",
    ("cancel",): "cancel",
}


def parse_request_path(path: str) -> RequestPath | None:
    """The parts of a path under the queue, or None when it names no request. Trailing slashes are fine."""
    parts = [part for part in path.split("/") if part]
    if "requests" not in parts[1:-1]:
        return None
    at = parts.index("requests", 1)
    action = _ACTIONS.get(tuple(parts[at + 2 :]))
    return RequestPath("/".join(parts[:at]), parts[at + 1], action) if action else None


def endpoint_named(name: str) -> Endpoint:
    """The endpoint of that id; raises UnknownModel with a suggestion."""
    endpoint = ENDPOINTS.get(name)
    if endpoint is not None:
        return endpoint
    near = difflib.get_close_matches(name[:100], ENDPOINTS, n=1)
    hint = f"Did you mean '{near[0]}'?" if near else f"There are: {', '.join(ENDPOINTS)}."
    raise UnknownModel(f"There is no endpoint '{name[:100]}' here. {hint}", field="model")


# --- headers and query

MAX_WEBHOOK_URL = 8192
MAX_SECONDS = MAX_RETENTION_S
"""For every length of time a caller may name."""

PRIORITIES: Mapping[str, int] = {"": PRIORITY_NORMAL, "normal": PRIORITY_NORMAL, "low": PRIORITY_LOW}

_ACL_NOTICE = Notice(
    "initial_acl", "ignored", "Files are read by unguessable signed links; there is no list of readers."
)


@dataclass(frozen=True, slots=True)
class SubmitOptions:
    """None of it changes the image.

    start_timeout_s counts from submit. max_queue_length: refuse when more jobs than that are waiting.
    """

    priority: int = PRIORITY_NORMAL
    start_timeout_s: float | None = None
    max_queue_length: int | None = None
    webhook_url: str | None = None
    retention_s: float | None = None
    keep_payload: bool = True
    idempotency_key: str | None = None
    notices: tuple[Notice, ...] = ()


def parse_submit_options(headers: Mapping[str, str], query: Mapping[str, str]) -> SubmitOptions:
    """What headers (names in lower case) and query ask for. Unknown ones are left alone. Raises BadRequest."""
    retention_s, notices = parse_lifecycle(headers)
    idempotency_key = headers.get("idempotency-key", "")
    if len(idempotency_key) > MAX_IDEMPOTENCY_KEY_CHARACTERS:
        allowed = f"at most {MAX_IDEMPOTENCY_KEY_CHARACTERS} are allowed"
        raise BadRequest(f"Idempotency-Key has {len(idempotency_key)} characters; {allowed}.")
    word = headers.get("x-fal-queue-priority", "")
    priority = PRIORITIES.get(word.strip().lower())
    if priority is None:
        raise BadRequest(f"X-Fal-Queue-Priority must be normal or low, not '{word[:40]}'.")
    timeout, timeout_s = headers.get("x-fal-request-timeout"), None
    if timeout is not None:
        try:
            timeout_s = float(timeout)
        except ValueError:
            timeout_s = math.nan
        if not 0 < timeout_s <= MAX_SECONDS:  # false for NaN too
            allowed = f"a number of seconds above 0 and up to {MAX_SECONDS:g}"
            raise BadRequest(f"X-Fal-Request-Timeout must be {allowed}, not '{timeout[:40]}'.")
    most = query.get("fal_max_queue_length")
    if most is not None and (not most.isdecimal() or len(most) > 9):
        raise BadRequest(f"fal_max_queue_length must be a whole number from 0, not '{most[:40]}'.")
    webhook = query.get("fal_webhook")
    if webhook is not None:
        usable = webhook.isascii() and webhook.isprintable() and len(webhook) <= MAX_WEBHOOK_URL
        if not usable or not webhook.lower().startswith(("http://", "https://")):
            raise BadRequest(f"fal_webhook must be an absolute http(s) address in ASCII, not '{webhook[:60]}'.")
    return SubmitOptions(
        priority=priority,
        start_timeout_s=timeout_s,
        max_queue_length=None if most is None else int(most),
        webhook_url=webhook,
        retention_s=retention_s,
        keep_payload=headers.get("x-fal-store-io", "").strip() != "0",
        idempotency_key=idempotency_key or None,
        notices=notices,
    )


def parse_lifecycle(headers: Mapping[str, str]) -> tuple[float | None, tuple[Notice, ...]]:
    """How long files shall live, and what of the header is not honoured. 0 and null mean the default."""
    names = ("X-Fal-Object-Lifecycle-Preference", "X-Fal-Object-Lifecycle")
    name = next((n for n in names if headers.get(n.lower())), None)
    if name is None:
        return None, ()
    try:
        wanted = orjson.loads(headers[name.lower()])
    except ValueError:
        wanted = None
    if not isinstance(wanted, dict):
        raise BadRequest(f"{name} must be a JSON object.")
    seconds = wanted.get("expiration_duration_seconds")
    number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if seconds is not None and not (number and 0 <= seconds <= MAX_SECONDS):
        raise BadRequest(f"{name}: expiration_duration_seconds must be from 0 to {MAX_SECONDS:g}, not {seconds!r:.40}.")
    acl = wanted.get("initial_acl")
    return (float(seconds) if seconds else None), (_ACL_NOTICE,) if acl else ()


# --- the body

QUEUE_WORDS = frozenset({"fal_webhook", "fal_max_queue_length", "fal_jwt_token", "max_buffering"})
"""What a query may hold that is no input."""

Size: TypeAlias = str | tuple[int, int]
Value: TypeAlias = str | int | float | bool | tuple[str, ...] | Size | tuple[Lora, ...]


@dataclass(frozen=True, slots=True)
class ParsedEdit:
    """A body in canonical form, but for its images.

    request: complete except for `images`, which is empty. images: links or data URIs, in order. inline: the answer
    shall hold data URIs.
    """

    request: EditRequest
    images: tuple[str, ...]
    inline: bool


def parse_json(data: bytes) -> Mapping[str, Any]:
    """The object in a body; an empty body is an empty object. Raises InvalidBody."""
    if not data.strip():
        return {}
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        problem = Problem((error.pos,), "JSON decode error", "json_invalid", {"error": error.msg})
        raise InvalidBody((problem,)) from None
    if not isinstance(body, dict):
        raise InvalidBody((Problem((), "Input should be a valid object", "dict_type"),))
    return body


def parse_query(endpoint: Endpoint, query: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """A body that came as a query string; a list's name may be repeated."""
    body: dict[str, Any] = {}
    for name, value in query:
        if name in QUEUE_WORDS:
            continue
        parameter = endpoint.parameters.get(name)
        if parameter is not None and parameter.kind is Kind.LINKS:
            body.setdefault(name, []).append(value)
        else:
            body[name] = value
    return body


def parse_edit(endpoint: Endpoint, body: Mapping[str, Any]) -> ParsedEdit:
    """The edit that a body asks for; raises InvalidBody with every problem, InvalidRequest for an impossible size."""
    options = body.get(UPSTREAM_OPTIONS)
    values: Mapping[str, Any] = check_body(
        endpoint, {name: value for name, value in body.items() if name != UPSTREAM_OPTIONS}
    )
    images, acceleration, wanted = values["images"], values.get("acceleration"), values.get("size")
    if wanted is None and endpoint.keeps_size:
        size = SizeRequest(like_reference=True)
    elif isinstance(wanted, tuple):
        size = sizes.parse(width=wanted[0], height=wanted[1])
    else:
        size = sizes.parse(size=wanted)
    request = EditRequest(
        model=endpoint.id,
        prompt=values["prompt"],
        images=(),
        negative_prompt=values.get("negative_prompt"),
        size=size,
        seed=values.get("seed"),
        num_images=values.get("num_images", 1),
        steps=values.get("steps"),
        guidance_scale=values.get("guidance_scale"),
        acceleration=None if acceleration is None else Acceleration(acceleration),
        output_format=OutputFormat(values.get("output_format", "png")),
        enable_safety_checker=values.get("enable_safety_checker", True),
        enable_prompt_expansion=values.get("enable_prompt_expansion", False),
        loras=values.get("loras", ()),
        upstream_options={} if options is None else read_upstream_options(options),
    )
    return ParsedEdit(request, (images,) if isinstance(images, str) else tuple(images), bool(values.get("inline")))


def check_body(endpoint: Endpoint, body: Mapping[str, Any]) -> dict[str, Value]:
    """Typed values by canonical field, the endpoint's own defaults filled in; an open field is left out.

    A value of null counts as absent. Raises InvalidBody with every problem.
    """
    problems: list[Problem] = []
    for name in body:
        if name not in endpoint.parameters:
            near = difflib.get_close_matches(name[:60], endpoint.parameters, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            message = f"There is no such input in {endpoint.id}{hint}"
            problems.append(Problem((name[:60],), message, "extra_forbidden"))
    values: dict[str, Value] = {}
    for parameter in endpoint.parameters.values():
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


# --- one value

MAX_DIGITS = 40
"""Of a number that comes as text; none that is allowed is longer."""

_TRUE = frozenset({"true", "1", "yes", "on", "t", "y"})
_FALSE = frozenset({"false", "0", "no", "off", "f", "n"})


class _Refused(Exception):
    """One value does not fit; carried to `check_body`, which collects."""

    def __init__(self, kind: str, message: str, *, at: tuple[str | int, ...] = (), **context: object) -> None:
        super().__init__(message)
        self.kind, self.message, self.at, self.context = kind, message, at, context


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
    """A list, or the same as text, see `parse_loras`; what is wrong in the words of this table, at its place."""
    try:
        loras = parse_loras(parameter.name, raw)
        for index, lora in enumerate(loras):
            lora.check(f"{parameter.name}[{index}]")
    except InvalidRequest as error:
        # The field, such as `loras[0].scale`, is the path to the place; the parameter's own name is its first part.
        at = tuple(int(part) if part.isdecimal() else part for part in re.findall(r"\w+", error.field or "")[1:])
        match error:
            case MissingParameter():
                raise _Refused("missing", "Field required", at=at) from None
            case InvalidType():
                expected = str(error.context["expected_type"])
                kind = {"array": "list_type", "object": "dict_type", "number": "float_parsing"}.get(expected)
                raise _Refused(kind or f"{expected}_type", f"Input should be a valid {expected}", at=at) from None
            case OutOfRange():
                low, high = parameter.minimum, parameter.maximum
                message = f"Input should be from {low} to {high:g}"
                raise _Refused("less_than_equal", message, at=at, ge=low, le=high) from None
        raise _Refused("value_error", error.message, at=at) from None
    if parameter.max_length is not None and len(loras) > parameter.max_length:
        high = parameter.max_length
        raise _Refused(
            "sequence_too_long", f"There should be at most {high} of them, not {len(loras)}", max_length=high
        )
    return loras


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
