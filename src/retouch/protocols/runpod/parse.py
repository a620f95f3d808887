"""Reads a job's request: its endpoint, the envelope around the input, the input. Plain values in, canonical ones out.

What is wrong with the envelope refuses the call; what is wrong with the input fails the job, as at the vendor. Names
that are not known change nothing and are reported. It fetches nothing and decodes no pixel.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson

from retouch.edit import Bucket, EditRequest, Notice, OutputFormat, SizeRequest
from retouch.errors import InvalidImage, InvalidRequest, InvalidType, MissingParameter, NotOneOf, UnknownModel
from retouch.images.decoding import decode_data_uri, is_data_uri
from retouch.protocols.inputs import UPSTREAM_OPTIONS, parse_boolean, parse_loras, parse_number, read_upstream_options

UNASKED_SIZE = "1328*1328"
"""What the Vercel provider sends when its user named no size."""

EXECUTION_TIMEOUT_MS = (5_000, 7 * 86_400_000)
TTL_MS = (10_000, 7 * 86_400_000)
"""The vendor's limits; a number outside them is moved to the nearest, which is reported."""

WAIT_MS = (1_000, 300_000)
DEFAULT_WAIT_MS = 90_000
"""Of `runsync` and `status-sync`."""

MAX_WEBHOOK_CHARACTERS = 8192

_ENVELOPE = frozenset({"input", "webhook", "policy", "s3Config"})
_SIZE = re.compile(r"\s*(\d{1,5})\s*[*xX]\s*(\d{1,5})\s*")
_FORMATS: Mapping[str, OutputFormat] = {
    "jpeg": OutputFormat.JPEG,
    "jpg": OutputFormat.JPEG,
    "png": OutputFormat.PNG,
    "webp": OutputFormat.WEBP,
}

_T = TypeVar("_T")


# --- the endpoint


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint. model: id of the row in the catalogue, from which the endpoint differs in the fields below.

    default_size: what an absent `size` means, `width*height`; None follows the last input image. unasked_size: a
    `size` that counts as absent.
    """

    id: str
    model: str
    default_size: str | None = None
    unasked_size: str | None = None


ENDPOINTS: Mapping[str, Endpoint] = {
    endpoint.id: endpoint
    for endpoint in (
        Endpoint("qwen-image-edit", "qwen-image-edit", unasked_size=UNASKED_SIZE),
        Endpoint("qwen-image-edit-2511", "qwen-image-edit-plus", default_size="1024*1024"),
        Endpoint("qwen-image-edit-2511-lora", "qwen-image-edit-plus", default_size="1024*1024"),
    )
}


def endpoint_named(endpoint_id: str) -> Endpoint:
    """The endpoint of that id; raises UnknownModel with a suggestion."""
    endpoint = ENDPOINTS.get(endpoint_id)
    if endpoint is None:
        near = difflib.get_close_matches(endpoint_id[:100], ENDPOINTS, n=1)
        hint = f"Did you mean '{near[0]}'?" if near else f"There are: {', '.join(ENDPOINTS)}."
        raise UnknownModel(f"There is no endpoint '{endpoint_id[:100]}' here. {hint}")
    return endpoint


def parse_wait(text: str | None) -> float:
    """Seconds to wait for a job, from the query's milliseconds; raises InvalidType for what is no number."""
    if text is None:
        return DEFAULT_WAIT_MS / 1000
    try:
        wait_ms = float(text)
    except ValueError:
        wait_ms = math.nan
    if math.isnan(wait_ms):
        raise InvalidType("wait", "number", text)
    return min(max(wait_ms, WAIT_MS[0]), WAIT_MS[1]) / 1000


# --- the envelope


@dataclass(frozen=True, slots=True)
class Policy:
    """How long a job may take, in seconds, and how urgent it is. None leaves it to the server.

    execution_timeout_s: of its run. ttl_s: of its whole life, from the submit on.
    """

    execution_timeout_s: float | None = None
    ttl_s: float | None = None
    low_priority: bool = False


@dataclass(frozen=True, slots=True)
class Envelope:
    """A request body. input: as it came, taken out of a second `input` when it was wrapped twice."""

    input: Mapping[str, Any]
    webhook: str | None = None
    policy: Policy = Policy()
    bucket: Bucket | None = None
    notices: tuple[Notice, ...] = ()


def parse_envelope(body: bytes) -> Envelope:
    """The parts of a body. Raises InvalidRequest and its kinds, which refuse the call."""
    try:
        envelope = orjson.loads(body)
    except ValueError:
        raise InvalidRequest("The request body is not valid JSON.") from None
    if not isinstance(envelope, dict):
        raise InvalidRequest('The request body must be a JSON object: {"input": {…}}.')
    given = envelope.get("input")
    if given is None:
        raise MissingParameter("input")
    if isinstance(given, dict) and set(given) == {"input"} and isinstance(given["input"], dict):
        given = given["input"]  # asyncio's client wraps what was wrapped already
    if not isinstance(given, dict):
        raise InvalidType("input", "object", given)
    policy, notices = _policy(envelope.get("policy"))
    webhook = envelope.get("webhook")
    usable = (
        isinstance(webhook, str)
        and webhook.isascii()
        and webhook.isprintable()
        and len(webhook) <= MAX_WEBHOOK_CHARACTERS
        and webhook.lower().startswith(("http://", "https://"))
    )
    if webhook not in (None, "") and not usable:
        raise InvalidRequest("The field 'webhook' must be an absolute http(s) address in ASCII.", field="webhook")
    return Envelope(
        input=given,
        webhook=webhook or None,
        policy=policy,
        bucket=_bucket(envelope.get("s3Config")),
        notices=(*notices, *(_unknown(name) for name in envelope if name not in _ENVELOPE)),
    )


def _policy(given: object) -> tuple[Policy, tuple[Notice, ...]]:
    if given is None:
        return Policy(), ()
    if not isinstance(given, dict):
        raise InvalidType("policy", "object", given)
    notices: list[Notice] = []
    return Policy(
        execution_timeout_s=_milliseconds(given, "executionTimeout", EXECUTION_TIMEOUT_MS, notices),
        ttl_s=_milliseconds(given, "ttl", TTL_MS, notices),
        low_priority=bool(_optional("policy.lowPriority", given.get("lowPriority"), parse_boolean)),
    ), tuple(notices)


def _milliseconds(policy: Mapping[str, Any], name: str, limits: tuple[int, int], notices: list[Notice]) -> float | None:
    field_name = f"policy.{name}"
    value = _optional(field_name, policy.get(name), parse_number)
    if value is None:
        return None
    used = min(max(value, limits[0]), limits[1])
    if used != value:
        notices.append(Notice(field_name, "clamped", f"It must be {limits[0]} to {limits[1]} ms: {used:g} was used."))
    return used / 1000


def _bucket(given: object) -> Bucket | None:
    """The bucket of `s3Config`. No message repeats a value: two of them are secret."""
    if given is None or given == {}:
        return None
    if not isinstance(given, dict):
        raise InvalidRequest("The field 's3Config' must be an object.", field="s3Config")
    texts = {}
    for name in ("accessId", "accessSecret", "bucketName", "endpointUrl"):
        value = given.get(name)
        if not isinstance(value, str) or not value.strip():
            raise InvalidRequest(f"The field 's3Config.{name}' must be a text.", field=f"s3Config.{name}")
        texts[name] = value.strip()
    prefix = given.get("objectPath") or ""
    if not isinstance(prefix, str):
        raise InvalidRequest("The field 's3Config.objectPath' must be a text.", field="s3Config.objectPath")
    bucket = Bucket(
        endpoint_url=texts["endpointUrl"],
        name=texts["bucketName"],
        access_key_id=texts["accessId"],
        secret_access_key=texts["accessSecret"],
        prefix=prefix.strip().strip("/"),
    )
    bucket.check("s3Config")
    return bucket


# --- the input


@dataclass(frozen=True, slots=True)
class ParsedInput:
    """An input as canonical values.

    request: complete but for its images. images: in order, links, data URIs or bytes. wire_names: the caller's name of
    each canonical field. base64: the answer's `result` is to be the file itself.
    """

    request: EditRequest
    images: tuple[bytes | str, ...]
    wire_names: Mapping[str, str]
    base64: bool = False
    notices: tuple[Notice, ...] = ()


def parse_input(endpoint: Endpoint, given: Mapping[str, Any]) -> ParsedInput:
    """The edit an input asks for. Raises InvalidRequest and its kinds, which fail the job."""
    reader = _Reader(given)
    prompt = reader.read(_text, "prompt")
    if prompt is None or not prompt.strip():
        raise MissingParameter("prompt")
    found: list[tuple[str, Any]] = []
    for name in ("image", "image_url", "images", "image_urls"):  # as one or another worker of this vendor has it
        value = reader.read(lambda _, entries: entries, name)
        if isinstance(value, list):
            found += [(f"{name}[{index}]", entry) for index, entry in enumerate(value)]
        elif value is not None:
            found.append((name, value))
    if not found:
        raise MissingParameter("image")
    images = tuple(_image(name, value) for name, value in found)
    seed = reader.read(_integer, "seed")
    size, size_notices = _size(endpoint, reader)
    request = EditRequest(
        model=endpoint.model,
        prompt=prompt,
        images=(),
        negative_prompt=reader.read(_text, "negative_prompt") or None,
        size=size,
        seed=None if seed == -1 else seed,
        steps=reader.read(_integer, "num_inference_steps", "steps"),
        guidance_scale=reader.read(parse_number, "guidance_scale", "true_cfg_scale"),
        output_format=reader.read(_format, "output_format") or OutputFormat.JPEG,
        enable_safety_checker=reader.read(parse_boolean, "enable_safety_checker") is not False,
        enable_prompt_expansion=bool(reader.read(parse_boolean, "enable_prompt_expansion")),
        loras=reader.read(parse_loras, "loras") or (),
        upstream_options=reader.read(lambda _, options: read_upstream_options(options), UPSTREAM_OPTIONS) or {},
    )
    base64 = bool(reader.read(parse_boolean, "enable_base64_output"))
    reader.read(parse_boolean, "enable_sync_mode")  # which operation was called says it
    wire_names = {
        "steps": reader.name_of("num_inference_steps", "steps"),
        "images": "images",
        **{f"images[{index}]": name for index, (name, _) in enumerate(found)},
        "guidance_scale": reader.name_of("guidance_scale", "true_cfg_scale"),
    }
    notices = (*size_notices, *(_unknown(f"input.{name}") for name in reader.unread))
    return ParsedInput(request, images, wire_names, base64, notices)


@dataclass(slots=True)
class _Reader:
    """Takes values out of an input and remembers which were read. A value of null counts as absent."""

    given: Mapping[str, Any]
    _known: set[str] = field(default_factory=set)

    def read(self, read: Callable[[str, Any], _T], *names: str) -> _T | None:
        """The value under the first of `names` that is there; None when none is."""
        self._known.update(names)
        name = self.name_of(*names)
        return _optional(name, self.given.get(name), read)

    def name_of(self, *names: str) -> str:
        return next((name for name in names if self.given.get(name) is not None), names[0])

    @property
    def unread(self) -> list[str]:
        return [name for name in self.given if name not in self._known]


def _image(name: str, value: object) -> bytes | str:
    """A link or a data URI as it came; anything else must be the base64 of a file."""
    if isinstance(value, dict):
        value = value.get("image")  # {"name": …, "image": …}, as workers around node graphs take them
    text = _text(name, value).strip()
    if is_data_uri(text) or text[:8].lower().startswith(("http://", "https://")):
        return text
    try:
        data = decode_data_uri(f"data:;base64,{text}", field=name)
    except InvalidImage:
        data = b""
    if not data:
        raise InvalidImage(
            f"The field '{name}' must be an http(s) link, a data URI or base64; it begins '{text[:20]}'.", field=name
        )
    return data


def _size(endpoint: Endpoint, reader: _Reader) -> tuple[SizeRequest, tuple[Notice, ...]]:
    text = reader.read(_text, "size")
    width, height = reader.read(_integer, "width"), reader.read(_integer, "height")
    if text is None and width is not None and height is not None:
        text = f"{width}*{height}"
    elif width is not None or height is not None:
        raise InvalidRequest("'width' and 'height' go together, and without 'size'.", field="size")
    notices: tuple[Notice, ...] = ()
    if text is not None and text == endpoint.unasked_size:
        detail = f"{text} is what the Vercel provider sends unasked: the answer follows the input image."
        text, notices = None, (Notice("input.size", "ignored", detail),)
    text = text or endpoint.default_size
    if text is None:
        return SizeRequest(), notices
    match = _SIZE.fullmatch(text)
    if match is None or not (int(match[1]) and int(match[2])):
        raise InvalidRequest("Invalid parameter: size format must be width*height.", field="size")
    return SizeRequest(width=int(match[1]), height=int(match[2]), words=text), notices


def _unknown(name: str) -> Notice:
    return Notice(name[:60], "ignored", "There is no such parameter here.")


# --- single values


def _optional(name: str, value: object, read: Callable[[str, Any], _T]) -> _T | None:
    return None if value is None else read(name, value)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidType(name, "string", value)
    return value


def _integer(name: str, value: object) -> int:
    """Whole numbers, also as a text or with a fraction of zero."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d{1,30}(\.0{0,9})?\s*", value):
        return int(value.partition(".")[0])
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise InvalidType(name, "integer", value)


def _format(name: str, value: object) -> OutputFormat:
    known = _FORMATS.get(_text(name, value).strip().lower())
    if known is None:
        raise NotOneOf(name, value, ("jpeg", "png", "webp"))
    return known
