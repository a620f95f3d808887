"""Reads a provider's JSON as it arrives, without ever holding an image in it.

A long string is decoded as base64 into a file while it is read, and stands in the value as a mark; everything else is
kept, up to a limit. The same for a stream of events, whose `data` lines are JSON. Members have no meaning here. A full
disk is StorageUnavailable.
"""

from __future__ import annotations

import binascii
import io
import re
import secrets
import tempfile
from collections.abc import Callable
from typing import IO, Any, Final

import orjson
import pybase64

from retouch.storage.objects import storage_errors

LONG_BYTES: Final = 64 * 1024
"""A string above this goes to a file. Above the longest prompt that is likely to be repeated to us."""

MAX_TEXT_BYTES: Final = 4 * 1024 * 1024
"""Of an answer without its long strings; a page of a provider's history is the largest that is asked for."""

MAX_DECODED_BYTES: Final = 50 * 1024 * 1024
"""Of one image, as `storage/fetch.py` has it for links."""

_LINE_BYTES: Final = 4096
_DATA_URI: Final = re.compile(rb"data:[^,]{0,200},")


class Unreadable(Exception):
    """More text than an answer may have."""


class Answer:
    """What was read. value: the JSON, or the list of a stream's events, else None. Close it: it holds files."""

    def __init__(self, hide: Callable[[bytes], bytes]) -> None:
        self.value: Any = None
        self.hide = hide
        self._token = secrets.token_hex(8)
        self._files: list[_DecodedFile] = []

    def image(self, text: object) -> IO[bytes] | None:
        """The bytes behind a member: a mark, a data URI or bare base64. None when it is none of these, or broken."""
        if not isinstance(text, str) or not text:
            return None
        name, _, number = text.partition(":")
        if name == self._token:
            return self._files[int(number)].opened()
        decoded = _DecodedFile(io.BytesIO())
        decoded.feed(text.encode(errors="replace"))
        decoded.end()
        return decoded.opened()

    def is_long(self, text: str) -> bool:
        """Whether `text` is a mark, and so no link."""
        return text.startswith(f"{self._token}:")

    def new_file(self) -> tuple[_DecodedFile, bytes]:
        with storage_errors("written"):
            self._files.append(_DecodedFile(tempfile.NamedTemporaryFile()))  # noqa: SIM115 - closed with the answer
        return self._files[-1], f"{self._token}:{len(self._files) - 1}".encode()

    def close(self) -> None:
        for file in self._files:
            file.close()


class AnswerReader:
    """Fed with the pieces of a body. events: the body is a stream of events (text/event-stream). hide: takes out of all
    text what must not be kept.
    """

    def __init__(self, *, events: bool = False, hide: Callable[[bytes], bytes] = bytes) -> None:
        self._answer = Answer(hide)
        self._reader = _Events(self._answer) if events else _Document(self._answer)

    def feed(self, piece: bytes) -> None:
        """Raises Unreadable when it becomes too long."""
        self._reader.feed(piece)

    def end(self) -> Answer:
        """All was read."""
        self._answer.value = self._reader.end()
        return self._answer

    def broken(self) -> Answer:
        """It broke off, or grew too long: only the events before it are good for anything."""
        return self.end() if isinstance(self._reader, _Events) else self._answer


class _Document:
    """The text of one JSON document, its long strings taken out."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._text = bytearray()
        self._string_at: int | None = None
        self._escaped = False
        self._long: _DecodedFile | None = None
        self._mark = b""

    def end(self) -> Any:
        """The value; None when it is no JSON."""
        try:
            return orjson.loads(self._answer.hide(bytes(self._text)))
        except orjson.JSONDecodeError:
            return None

    def feed(self, piece: bytes) -> None:
        at = 0
        while at < len(piece):
            if self._escaped:
                escape = b"\\" + piece[at : at + 1]
                if self._long is not None:
                    self._long.feed(_unescaped(escape))
                else:
                    self._text += escape
                self._escaped = False
                at += 1
            elif self._string_at is not None:
                at = self._inside(piece, at)
            else:
                quote = piece.find(b'"', at)
                stop = len(piece) if quote < 0 else quote + 1
                self._text += piece[at:stop]
                if quote >= 0:
                    self._string_at = len(self._text)
                at = stop
        if len(self._text) > MAX_TEXT_BYTES:
            raise Unreadable

    def _inside(self, piece: bytes, at: int) -> int:
        quote = piece.find(b'"', at)
        stop = len(piece) if quote < 0 else quote
        backslash = piece.find(b"\\", at, stop)
        if backslash >= 0:
            self._more(piece[at:backslash])
            self._escaped = True
            return backslash + 1
        self._more(piece[at:stop])
        if quote < 0:
            return stop
        if self._long is not None:
            self._long.end()
            self._text += self._mark
        self._text += b'"'
        self._string_at, self._long = None, None
        return stop + 1

    def _more(self, part: bytes) -> None:
        if self._long is not None:
            self._long.feed(part)
            return
        self._text += part
        assert self._string_at is not None
        if len(self._text) - self._string_at > LONG_BYTES:
            self._long, self._mark = self._answer.new_file()
            self._long.feed(_unescaped(bytes(self._text[self._string_at :])))
            del self._text[self._string_at :]


class _Events:
    """The documents in the `data` lines of a stream; other lines, such as comments, are let go."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._values: list[Any] = []
        self._line = b""
        self._in_data = False
        self._document: _Document | None = None

    def feed(self, piece: bytes) -> None:
        at = 0
        while at < len(piece):
            newline = piece.find(b"\n", at)
            stop = len(piece) if newline < 0 else newline
            part = piece[at:stop]
            if self._in_data:
                assert self._document is not None
                self._document.feed(part)
            elif (line := self._line + part).startswith(b"data:"):
                self._document = self._document or _Document(self._answer)
                self._in_data = True
                self._document.feed(line[5:])
            else:
                self._line = line[:_LINE_BYTES]
            if newline >= 0:
                self._end_line()
            at = stop + 1

    def end(self) -> list[Any]:
        self._end_line()
        self._end_event()
        return self._values

    def _end_line(self) -> None:
        if not self._in_data and not self._line.strip(b"\r"):
            self._end_event()
        self._line, self._in_data = b"", False

    def _end_event(self) -> None:
        if self._document is not None and (value := self._document.end()) is not None:
            self._values.append(value)
        self._document = None


class _DecodedFile:
    """A long string as the bytes that its base64 stands for; what is no base64 becomes no file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._pending = b""
        self._begun = False
        self._good = True
        self._size = 0

    def feed(self, part: bytes) -> None:
        if not self._good:
            return
        text = self._pending + part
        if not self._begun:
            self._begun = True
            uri = _DATA_URI.match(text)
            if uri is not None:
                self._good = uri[0].endswith(b";base64,")
                text = text[uri.end() :]
        whole = len(text) - len(text) % 4
        self._pending = text[whole:]
        self._decode(text[:whole])

    def end(self) -> None:
        if self._pending:
            self._decode(self._pending + b"=" * (-len(self._pending) % 4))
        self._good = self._good and self._size > 0

    def opened(self) -> IO[bytes] | None:
        self._file.seek(0)
        return self._file if self._good else None

    def close(self) -> None:
        self._file.close()

    def _decode(self, text: bytes) -> None:
        try:
            data = pybase64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            self._good = False
            return
        self._size += len(data)
        self._good = self._good and self._size <= MAX_DECODED_BYTES
        if self._good:
            with storage_errors("written"):
                self._file.write(data)


def _unescaped(text: bytes) -> bytes:
    r"""JSON's escapes that may stand in base64: `\/` is a slash, line breaks are nothing; any other breaks it."""
    return text.replace(b"\\/", b"/").replace(b"\\n", b"").replace(b"\\r", b"") if b"\\" in text else text
