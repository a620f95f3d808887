"""Takes a multipart body apart as it arrives: its parts, in bounded number and in order.

A JavaScript buffer that arrives as one part per byte is recognised after a few parts. What the parts mean is decided
in `form.py`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from retouch.errors import InvalidRequest, InvalidType

MAX_PARTS = 400
"""Sixteen images and every parameter fit several times; a buffer sent byte by byte does not."""

MAX_PREAMBLE_BYTES = 64 * 1024
"""Text before the first boundary, which RFC 2046 lets a sender write and a reader ignore."""

MAX_BYTES_OF_BUFFER = 32
"""After this many parts of one byte each the rest need not be seen."""

IMAGE_NAME = re.compile(r"(image|images|image_url|image_urls|url)(?:\[(\d{0,9})\])?")

_NUMBERED_NAME = re.compile(r"(?:image|images|image_url|image_urls|url|mask)\[\d{1,9}\]")
_BYTE_OF_BUFFER = re.compile(rb"\d{1,3}")


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
    return _NUMBERED_NAME.fullmatch(part.name) is not None and int(part.data) <= 255


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
    head: bytes | None = b""
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
