"""Takes the body of a call apart as it arrives, form or JSON: named values here, images there, in the caller's order.

The two bodies of one call give equal values. Both SDKs' bracket names (`loras[][path]`, `image[]`,
`image_size[width]`) and every alias of the image fields are known here; what a value means is not. Memory is bounded,
and a JavaScript buffer that arrives as one part per byte is recognised after a few parts.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass

import orjson
import pybase64
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from retouch.errors import (
    BodyTooLarge,
    ImageTooLarge,
    InvalidRequest,
    InvalidType,
    UnsupportedMediaType,
    UnsupportedParameter,
)
from retouch.images.decoding import sniff

MAX_PARTS = 400
"""Sixteen images and every parameter fit several times; a buffer sent byte by byte does not."""

MAX_PREAMBLE_BYTES = 64 * 1024
"""Text before the first boundary, which RFC 2046 lets a sender write and a reader ignore."""

MAX_BYTES_OF_BUFFER = 32
"""After this many parts of one byte each the rest need not be seen."""

MAX_DEPTH = 6
"""Brackets in one name; no documented parameter needs more than three."""

GLANCE_BYTES = 1 << 20
"""How much of a body that is too large anyway is looked at, to name a better reason than its size."""

_IMAGES = ("image", "images", "image_url", "image_urls", "url")
_MASKS = ("mask", "mask_url", "mask_image")

_IMAGE_NAME = re.compile(rf"({'|'.join(_IMAGES)})(?:\[(\d{{0,9}})\])?")
_MASK_NAME = re.compile(rf"({'|'.join(_MASKS)})(?:\[0?\])?")
_NUMBERED = re.compile(rf"(?:{'|'.join(_IMAGES)}|mask)\[\d{{1,9}}\]")
_BYTE_OF_BUFFER = re.compile(rb"\d{1,3}")
_BRACKETED = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a multipart body.

    filename: None where there is none. content_type: without options, in small letters, or empty. encoding: the
    Content-Transfer-Encoding in small letters, or empty.
    """

    name: str
    filename: str | None
    data: bytes
    content_type: str = ""
    encoding: str = ""


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
    return _NUMBERED.fullmatch(part.name) is not None and int(part.data) <= 255


@dataclass(frozen=True, slots=True)
class RawImage:
    """An image as it arrived: bytes of a file, or text (a link or a data URI). `name`: what errors call it."""

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
        """A hash of the call, whatever the boundary and the order of the parts: sha256, hex. Raises InvalidRequest."""
        try:
            values = orjson.dumps(self.values, default=_hash_of_file, option=orjson.OPT_SORT_KEYS)
        except TypeError:  # JSON may be nested more deeply than can be written
            raise InvalidRequest("The body is nested too deeply.") from None
        hasher = hashlib.sha256(values)
        for image in (*self.images, *((self.mask,) if self.mask else ())):
            source = image.source.encode() if isinstance(image.source, str) else image.source
            hasher.update(f"\n{image.name}\n".encode())
            hasher.update(hashlib.sha256(source).digest())
        return hasher.hexdigest()


async def decode_body(content_type: str, chunks: AsyncIterator[bytes]) -> Body:
    """Take the body of a call apart as it arrives.

    Raises UnsupportedMediaType, ImageTooLarge (with `max_bytes`, where `chunks` raise BodyTooLarge), InvalidRequest
    and its kinds.
    """
    media_type, options = parse_options_header(content_type)
    try:
        if media_type == b"multipart/form-data":
            boundary = options.get(b"boundary")
            if not boundary:
                raise InvalidRequest("The Content-Type of a multipart body must name its boundary.")
            return decode_form(await read_parts(chunks, boundary))
        if media_type == b"application/json" or media_type.endswith(b"+json"):
            return decode_json(orjson.loads(b"".join([chunk async for chunk in chunks])))
    except BodyTooLarge as error:
        raise ImageTooLarge(error.message, field="images", **error.context) from None
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.") from None
    raise UnsupportedMediaType(
        f"The body must be multipart/form-data or application/json, not '{content_type[:60] or 'untyped'}'."
    )


async def read_parts(chunks: AsyncIterator[bytes], boundary: bytes) -> list[Part]:
    """The parts of a multipart body, in order; raises InvalidRequest for a broken one."""
    collector = _Collector()
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": collector.on_part_begin,
                "on_part_data": collector.on_part_data,
                "on_part_end": collector.on_part_end,
                "on_header_field": collector.on_header_field,
                "on_header_value": collector.on_header_value,
                "on_header_end": collector.on_header_end,
                "on_headers_finished": collector.on_headers_finished,
                "on_end": collector.on_end,
            },
        )
        async for chunk in _from_first_boundary(chunks, boundary):
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequest(f"The multipart body cannot be read: {error}.") from None
    if not collector.ended:
        raise InvalidRequest("The multipart body ends before its closing boundary.")
    return collector.parts


async def _from_first_boundary(chunks: AsyncIterator[bytes], boundary: bytes) -> AsyncIterator[bytes]:
    """The body without what stands before its first boundary line; the parser takes none of that."""
    line = re.compile(rb"(?:^|\n)(--" + re.escape(boundary) + rb"(?:[ \t]*\r?\n|--))")
    head: bytes | None = b""  # what came before the line, which chunks may cut in two; None once it is found
    async for chunk in chunks:
        if head is None:
            yield chunk
            continue
        head += chunk
        found = line.search(head)
        if found is not None:
            yield head[found.start(1) :]
            head = None
        elif len(head) > MAX_PREAMBLE_BYTES:
            break
    if head is not None:
        raise InvalidRequest("The multipart body does not hold the boundary that its Content-Type names.")


class _Collector:
    """Gathers the parser's callbacks into parts."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._bytes_of_buffer = 0
        self.on_part_begin()

    def on_part_begin(self) -> None:
        self._data: list[bytes] = []
        self._header, self._value = b"", b""
        self._headers: dict[bytes, bytes] = {}

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header, self._value = b"", b""

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name")
        if name is None:
            raise InvalidRequest("A part of the multipart body has no name.")
        filename = options.get(b"filename")
        self._name = name.decode(errors="replace")
        self._filename = None if filename is None else filename.decode(errors="replace")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._data.append(data[start:end])

    def on_part_end(self) -> None:
        content_type, _ = parse_options_header(self._headers.get(b"content-type", b""))
        encoding = self._headers.get(b"content-transfer-encoding", b"").strip().lower()
        part = Part(
            self._name,
            self._filename,
            b"".join(self._data),
            content_type.decode("latin-1"),
            encoding.decode("latin-1"),
        )
        self.parts.append(part)
        self._bytes_of_buffer += is_byte_of_buffer(part)
        if self._bytes_of_buffer > MAX_BYTES_OF_BUFFER:
            raise RawBuffer
        if len(self.parts) > MAX_PARTS:
            raise InvalidRequest(f"The multipart body has more than {MAX_PARTS} parts.")

    def on_end(self) -> None:
        self.ended = True


def decode_form(parts: Sequence[Part]) -> Body:
    """Take a multipart form apart; raises InvalidRequest and its kinds."""
    pairs: list[tuple[str, object]] = []
    images: list[tuple[str, int | None, bytes | str]] = []
    masks: list[RawImage] = []
    for part in parts:
        if is_byte_of_buffer(part):
            raise RawBuffer
        if match := _IMAGE_NAME.fullmatch(part.name):
            index = int(match[2]) if match[2] else None
            images += [(match[1], index, source) for source in _sources(part)]
        elif _MASK_NAME.fullmatch(part.name):
            masks += [RawImage(source, part.name.partition("[")[0]) for source in _sources(part)]
        elif part.filename is not None and (part.filename or part.data):
            pairs.append((part.name, part.data))
        else:
            try:
                pairs.append((part.name, part.data.decode()))
            except UnicodeDecodeError:
                name = part.name[:60]
                raise InvalidRequest(f"The field '{name}' is not UTF-8 text.", field=name) from None
    return Body(nest(pairs), _in_order(images), _only(masks))


def decode_json(body: object) -> Body:
    """Take a parsed JSON body apart; raises InvalidRequest and its kinds."""
    if not isinstance(body, dict):
        raise InvalidType("body", "object", body)
    values: dict[str, object] = {}
    images: list[RawImage] = []
    masks: list[RawImage] = []
    for key, value in body.items():
        if key in _IMAGES:
            images += _json_images(key, value)
        elif key in _MASKS:
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
    # One level of brackets is taken off each time; what is below is joined first.
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
    if len(lengths) > 1:  # which value belongs to which object is told by their number alone
        raise InvalidRequest(
            f"The objects of '{name}[]' have different fields and cannot be told apart; send '{name}' as JSON text.",
            field=name,
        )
    rows = zip(*columns.values(), strict=True)
    return [_join(name, list(zip(columns, row, strict=True))) for row in rows]


def _sources(part: Part) -> list[bytes | str]:
    """The images in one part: none for an empty one, several for a JSON list of links.

    A part is a file when it has a file name, the content type of a file, or the first bytes of an image: clients leave
    out one or two of the three. Base64 without a data URI around it counts as the file it holds.
    """
    data = part.data
    if part.encoding == "base64":
        data = _from_base64(data) or data
    typed = part.content_type.startswith("image/") or part.content_type == "application/octet-stream"
    if part.filename or (data and (part.filename is not None or typed or sniff(data) is not None)):
        return [data]
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return [data]
    if not text.strip():
        return []
    if text.lstrip().startswith("["):
        try:
            members = orjson.loads(text)
        except orjson.JSONDecodeError:
            return [text]
        return [member for member in members if isinstance(member, str)]
    return [_from_base64(data) or text]


def _from_base64(data: bytes) -> bytes | None:
    """The image that `data` is the base64 of, or None where it is no image's."""
    try:
        decoded = pybase64.b64decode(b"".join(data.split()), validate=True)
    except (binascii.Error, ValueError):
        return None
    return decoded if sniff(decoded) is not None else None


def _in_order(images: Sequence[tuple[str, int | None, bytes | str]]) -> tuple[RawImage, ...]:
    """Document order, but numbered ones among themselves by number: each takes the place of one of them."""
    numbered = iter(sorted((p for p in images if p[1] is not None), key=lambda p: p[1] or 0))
    ordered = [p if p[1] is None else next(numbered) for p in images]
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
