"""Reads the body of a call off the connection, multipart or JSON, in bounded memory and time.

Nothing larger than the server's limit is held, and a JavaScript buffer that arrives as one part per byte
is recognised after a few parts. What the parts mean is decided in `form.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import orjson
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from retouch.errors import ImageTooLarge, InvalidRequest, UnsupportedMediaType
from retouch.protocols.openai.form import Body, Part, RawBuffer, decode_form, decode_json, is_byte_of_buffer

MAX_PARTS = 400
"""Sixteen pictures and every parameter fit several times; a buffer sent byte by byte does not."""

MAX_BYTES_OF_BUFFER = 32
"""After this many parts of one byte each nobody needs to see the rest."""

GLANCE_BYTES = 1 << 20
"""How much of a body that is too large anyway is looked at, to name a better reason than its size."""


async def read_body(request: Request, *, max_bytes: int) -> Body:
    """The call in `request`, taken apart.

    Raises UnsupportedMediaType, ImageTooLarge (with `max_bytes`), InvalidRequest and its kinds.
    """
    content_type = request.headers.get("content-type", "")
    media_type, options = parse_options_header(content_type)
    declared = request.headers.get("content-length", "")
    too_large = declared.isdecimal() and int(declared) > max_bytes
    chunks = _limited(request, max_bytes, too_large=too_large)
    if media_type == b"multipart/form-data":
        boundary = options.get(b"boundary")
        if not boundary:
            raise InvalidRequest("The Content-Type of a multipart body must name its boundary.")
        return decode_form(await read_parts(chunks, boundary))
    if media_type == b"application/json" or media_type.endswith(b"+json"):
        return decode_json(_parsed(b"".join([chunk async for chunk in chunks])))
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
        async for chunk in chunks:
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequest(f"The multipart body cannot be read: {error}.") from None
    if not collector.ended:
        raise InvalidRequest("The multipart body ends before its closing boundary.")
    return collector.parts


class _Collector:
    """Gathers the parser's callbacks into parts."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._bytes_of_buffer = 0
        self._on_empty_part()

    def _on_empty_part(self) -> None:
        self._data: list[bytes] = []
        self._header, self._value = b"", b""
        self._disposition = b""
        self._name = ""
        self._filename: str | None = None

    on_part_begin = _on_empty_part

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header, self._value = b"", b""

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name")
        if name is None:
            raise InvalidRequest("A part of the multipart body has no name.")
        filename = options.get(b"filename", options.get(b"filename*"))
        self._name = name.decode(errors="replace")
        self._filename = None if filename is None else filename.decode(errors="replace")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._data.append(data[start:end])

    def on_part_end(self) -> None:
        part = Part(self._name, self._filename, b"".join(self._data))
        self.parts.append(part)
        self._bytes_of_buffer += is_byte_of_buffer(part)
        if self._bytes_of_buffer > MAX_BYTES_OF_BUFFER:
            raise RawBuffer
        if len(self.parts) > MAX_PARTS:
            raise InvalidRequest(f"The multipart body has more than {MAX_PARTS} parts.")

    def on_end(self) -> None:
        self.ended = True


async def _limited(request: Request, max_bytes: int, *, too_large: bool) -> AsyncIterator[bytes]:
    """The body's chunks; then ImageTooLarge when there are more than `max_bytes`, or were said to be."""
    left = min(GLANCE_BYTES, max_bytes) if too_large else max_bytes
    async for chunk in request.stream():
        left -= len(chunk)
        if left < 0:
            break
        yield chunk
    if too_large or left < 0:
        raise ImageTooLarge(f"The request body is larger than {max_bytes} bytes.", field="images", max_bytes=max_bytes)


def _parsed(data: bytes) -> object:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.") from None
