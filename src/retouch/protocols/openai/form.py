"""Takes a multipart form or a JSON body apart: named values here, pictures there, in the caller's order.

The two bodies of one call give equal values. Both SDKs' bracket names (`loras[][path]`, `image[]`,
`image_size[width]`) and every alias of the picture fields are known here; what a value means is not.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import orjson

from retouch.errors import InvalidRequest, InvalidType, UnsupportedParameter

MAX_DEPTH = 6
"""Brackets in one name; no documented parameter needs more than three."""

_IMAGE_NAME = re.compile(r"(image|images|image_url|image_urls|url)(?:\[(\d{0,9})\])?")
_MASK_NAME = re.compile(r"(mask|mask_url|mask_image)(?:\[0?\])?")
_BRACKETED = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_BYTE_OF_BUFFER = re.compile(rb"\d{1,3}")


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a multipart body. `filename` is None for a text part."""

    name: str
    filename: str | None
    data: bytes


@dataclass(frozen=True, slots=True)
class RawImage:
    """A picture as it arrived: bytes of a file, or text (a link or a data URI). `name`: what errors call it."""

    source: bytes | str
    name: str


@dataclass(frozen=True, slots=True)
class Body:
    """A call taken apart. Values are text, numbers, booleans, None, lists and dicts; a file where text was
    due is its bytes."""

    values: Mapping[str, object]
    images: tuple[RawImage, ...]
    mask: RawImage | None

    def digest(self) -> str:
        """A hash of what was said, whatever the boundary and the order of the parts; sha256 in hex."""
        hasher = hashlib.sha256(orjson.dumps(self.values, default=_hash_of_file, option=orjson.OPT_SORT_KEYS))
        for image in (*self.images, *((self.mask,) if self.mask else ())):
            source = image.source.encode() if isinstance(image.source, str) else image.source
            hasher.update(f"\n{image.name}\n".encode())
            hasher.update(hashlib.sha256(source).digest())
        return hasher.hexdigest()


class RawBuffer(InvalidType):
    """A JavaScript buffer was passed without a file around it, and arrived as one part per byte."""

    def __init__(self) -> None:
        super().__init__("image", "file", "the bytes of a buffer, one by one")
        self.message += " Wrap the buffer in a file first: await toFile(buffer, 'image.png')."
        self.args = (self.message,)


def is_byte_of_buffer(part: Part) -> bool:
    """Whether this part is one byte of a JavaScript buffer that was passed as a plain value."""
    if part.filename is not None or not _BYTE_OF_BUFFER.fullmatch(part.data):
        return False
    name = _IMAGE_NAME.fullmatch(part.name) or re.fullmatch(r"(mask)\[(\d{1,9})\]", part.name)
    return name is not None and bool(name[2]) and int(part.data) <= 255


def decode_form(parts: Sequence[Part]) -> Body:
    """Take a multipart form apart; raises InvalidRequest and its kinds."""
    pairs: list[tuple[str, object]] = []
    pictures: list[tuple[str, int | None, bytes | str]] = []
    masks: list[RawImage] = []
    for part in parts:
        if is_byte_of_buffer(part):
            raise RawBuffer
        source = _source(part)
        if name := _IMAGE_NAME.fullmatch(part.name):
            index = int(name[2]) if name[2] else None
            pictures += [(name[1], index, s) for s in _several(source)]
        elif _MASK_NAME.fullmatch(part.name):
            masks += [RawImage(s, part.name.partition("[")[0]) for s in _several(source)]
        else:
            pairs.append((part.name, source))
    return Body(nest(pairs), _in_order(pictures), _only(masks))


def decode_json(body: object) -> Body:
    """Take a parsed JSON body apart; raises InvalidRequest and its kinds."""
    if not isinstance(body, dict):
        raise InvalidType("body", "object", body)
    values: dict[str, object] = {}
    images: list[RawImage] = []
    masks: list[RawImage] = []
    for key, value in body.items():
        if key in ("image", "images", "image_url", "image_urls", "url"):
            images += _json_images(key, value)
        elif key in ("mask", "mask_url", "mask_image"):
            masks += _json_images(key, value)
        else:
            values[key] = value
    return Body(values, tuple(images), _only(masks))


def nest(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    """`[("a[b]", 1), ("t[]", 2), ("t[]", 3)]` becomes `{"a": {"b": 1}, "t": [2, 3]}`.

    A plain name given twice becomes a list. Raises InvalidRequest where names contradict each other.
    """
    grouped: dict[str, list[tuple[tuple[str, ...], object]]] = {}
    for name, value in pairs:
        match = _BRACKETED.fullmatch(name)
        head, path = (match[1], tuple(match[2][1:-1].split("]["))) if match and match[2] else (name, ())
        if len(path) > MAX_DEPTH:
            raise InvalidRequest(f"The field '{head}' is nested too deeply.", field=head)
        grouped.setdefault(head, []).append((path, value))
    return {head: _join(head, entries) for head, entries in grouped.items()}


def _join(name: str, entries: Sequence[tuple[tuple[str, ...], object]]) -> object:
    if not any(path for path, _ in entries):
        return entries[0][1] if len(entries) == 1 else [value for _, value in entries]
    if not all(path for path, _ in entries):
        raise InvalidRequest(f"The field '{name}' is given both with and without brackets.", field=name)
    branches: dict[str, list[tuple[tuple[str, ...], object]]] = {}
    for path, value in entries:
        branches.setdefault(path[0], []).append((path[1:], value))
    if set(branches) == {""}:
        return _rows(name, branches[""])
    if all(branch.isdecimal() for branch in branches):
        return [_join(name, branches[index]) for index in sorted(branches, key=int)]
    if "" in branches:
        raise InvalidRequest(f"The field '{name}' is both a list and an object.", field=name)
    return {branch: _join(f"{name}[{branch}]", below) for branch, below in branches.items()}


def _rows(name: str, entries: Sequence[tuple[tuple[str, ...], object]]) -> list[object]:
    """A list: of values, or of objects whose fields came in columns or interleaved."""
    columns: dict[tuple[str, ...], list[object]] = {}
    for path, value in entries:
        columns.setdefault(path, []).append(value)
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1:
        raise InvalidRequest(
            f"The objects of '{name}[]' have different fields and cannot be told apart; send '{name}' as JSON text.",
            field=name,
        )
    rows = zip(*columns.values(), strict=True)
    return [_join(name, list(zip(columns, row, strict=True))) for row in rows]


def _source(part: Part) -> bytes | str:
    """The bytes of a file; the text of a text part."""
    if part.filename is not None and (part.filename or part.data):
        return part.data
    try:
        return part.data.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"The field '{part.name[:60]}' is not UTF-8 text.", field=part.name[:60]) from None


def _several(source: bytes | str) -> list[bytes | str]:
    """Nothing for a blank text; the members of a JSON list of links; else the one source."""
    if isinstance(source, str):
        if not source.strip():
            return []
        if source.lstrip().startswith("["):
            try:
                members = orjson.loads(source)
            except orjson.JSONDecodeError:
                return [source]
            return [member for member in members if isinstance(member, str)]
    return [source]


def _in_order(pictures: Sequence[tuple[str, int | None, bytes | str]]) -> tuple[RawImage, ...]:
    """Document order, but numbered ones among themselves by number."""
    numbered = iter(sorted((p for p in pictures if p[1] is not None), key=lambda p: p[1] or 0))
    ordered = [p if p[1] is None else next(numbered) for p in pictures]
    names = [("image" if p[0] == "images" else p[0]) for p in ordered]
    return tuple(
        RawImage(p[2], name if name == "image_url" else f"{name}[{position}]")
        for position, (p, name) in enumerate(zip(ordered, names, strict=True))
    )


def _only(masks: Sequence[RawImage]) -> RawImage | None:
    if len(masks) > 1:
        raise InvalidRequest(f"At most one mask is taken, not {len(masks)}.", field="mask")
    return masks[0] if masks else None


def _json_images(key: str, value: object) -> list[RawImage]:
    if value is None or value == "":
        return []
    if not isinstance(value, list):
        return [_json_image(f"{key}[0]" if key == "image" else key, value)]
    return [_json_image(f"{key}[{position}]", member) for position, member in enumerate(value)]


def _json_image(name: str, value: object) -> RawImage:
    """A link or data URI, plain or as OpenAI's object around it."""
    if isinstance(value, str):
        return RawImage(value, name)
    if isinstance(value, dict):
        if "file_id" in value:
            raise UnsupportedParameter(
                f"The field '{name}.file_id' is not supported: there is no Files API here. Send 'image_url'.",
                field=f"{name}.file_id",
            )
        for member in ("image_url", "url"):
            if member in value:
                return _json_image(f"{name}.{member}", value[member])
    raise InvalidType(name, "link or data URI", value)


def _hash_of_file(value: object) -> object:
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    raise TypeError
