"""From the wire to canonical values: paths, JSON, and a submitted body as an edit.

A body is checked against its endpoint's table (`schemas.py`, `validation.py`), all problems at once. Does no I/O:
images stay the text that the caller wrote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from retouch import sizes
from retouch.edit import Acceleration, EditRequest, OutputFormat, SizeRequest
from retouch.protocols.fal.errors import InvalidBody, Problem
from retouch.protocols.fal.schemas import Endpoint, Kind
from retouch.protocols.fal.validation import check_body
from retouch.protocols.inputs import UPSTREAM_OPTIONS, read_upstream_options

QUEUE_WORDS = frozenset({"fal_webhook", "fal_max_queue_length", "fal_jwt_token", "max_buffering"})
"""What a query may hold that is no input."""


@dataclass(frozen=True, slots=True)
class ParsedEdit:
    """A body in canonical form, but for its images.

    request: complete except for `images`, which is empty. images: links or data URIs, in order. inline: the answer
    shall hold data URIs.
    """

    request: EditRequest
    images: tuple[str, ...]
    inline: bool


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
        parameter = endpoint.parameter(name)
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
    images, acceleration = values["images"], values.get("acceleration")
    request = EditRequest(
        model=endpoint.id,
        prompt=values["prompt"],
        images=(),
        negative_prompt=values.get("negative_prompt"),
        size=_size(values.get("size"), keep=endpoint.keeps_size),
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


def _size(value: str | tuple[int, int] | None, *, keep: bool) -> SizeRequest:
    if value is None and keep:
        return SizeRequest(like_reference=True)
    if isinstance(value, tuple):
        return sizes.parse(width=value[0], height=value[1])
    return sizes.parse(size=value)
