"""Request bodies that are never whole in memory: their exact length is known before the first byte is read.

An image is read from the blob store in pieces while the body is sent, as a file part or as base64 between the parts of
a JSON document. It does not decide which form an image takes: `inputs.py` does.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import orjson
import pybase64

from retouch.images.decoding import sniff
from retouch.storage.blobs import Blobs

PART_BYTES: Final = 3 * 16 * 1024
"""A multiple of three, so that pieces of base64 can be put one behind the other; 64 kB once encoded."""


class Body(Protocol):
    """content_type, and length in bytes: exactly what `chunks` will give, which may be asked for again."""

    @property
    def content_type(self) -> str: ...

    @property
    def length(self) -> int: ...

    def chunks(self) -> Iterator[bytes]: ...


@dataclass(frozen=True, slots=True)
class StoredImage:
    """A blob to send. media_type: as its first bytes say; size: in bytes."""

    blob: str
    media_type: str
    size: int

    @classmethod
    def of(cls, blobs: Blobs, key: str) -> StoredImage:
        """Raises UnknownFile or StorageUnavailable."""
        start = next(blobs.read_parts(key, 512), b"")
        name = sniff(start)
        return cls(key, f"image/{name}" if name else "application/octet-stream", blobs.size(key))

    @property
    def suffix(self) -> str:
        kind = self.media_type.partition("/")[2]
        return {"jpeg": "jpg", "octet-stream": "bin"}.get(kind, kind)


@dataclass(frozen=True, slots=True)
class Inline:
    """Stands in a JSON value where the image goes as a data URI, or as bare base64."""

    image: StoredImage
    data_uri: bool = True

    @property
    def prefix(self) -> bytes:
        return f"data:{self.image.media_type};base64,".encode() if self.data_uri else b""

    @property
    def length(self) -> int:
        return len(self.prefix) + 4 * -(-self.image.size // 3)


class JsonBody:
    """A JSON document whose `Inline` leaves are read and encoded while it is sent."""

    content_type = "application/json"

    def __init__(self, value: Any, blobs: Blobs) -> None:
        self._blobs = blobs
        self._pieces = tuple(_pieces(value))
        self.length = sum(len(piece) if isinstance(piece, bytes) else piece.length for piece in self._pieces)

    def chunks(self) -> Iterator[bytes]:
        held = b""
        for piece in self._pieces:
            if isinstance(piece, bytes):
                held += piece
                continue
            held += piece.prefix
            for part in self._blobs.read_parts(piece.image.blob, PART_BYTES):
                yield held + pybase64.b64encode(part)
                held = b""
        if held:
            yield held


def _pieces(value: Any) -> Iterator[bytes | Inline]:
    """The document's text, cut where images go. A mark that cannot be guessed holds each place."""
    images: list[Inline] = []
    mark = f"image-{secrets.token_hex(16)}-"

    def placed(leaf: Any) -> str:
        if not isinstance(leaf, Inline):
            raise TypeError
        images.append(leaf)
        return f"{mark}{len(images) - 1}."

    rest = orjson.dumps(value, default=placed, option=orjson.OPT_PASSTHROUGH_DATACLASS)
    for number, image in enumerate(images):
        before, _, rest = rest.partition(f"{mark}{number}.".encode())
        yield before
        yield image
    yield rest


@dataclass(frozen=True, slots=True)
class FilePart:
    """A file of a form. name: of the field; file_name: as the provider will see it."""

    name: str
    image: StoredImage
    file_name: str


class FormBody:
    """multipart/form-data (RFC 7578): text fields first, then files, each read while it is sent.

    A value of a field is written as text: booleans as `true` and `false`, objects and lists as JSON.
    """

    def __init__(
        self, fields: Mapping[str, Any], files: Sequence[FilePart], blobs: Blobs, *, boundary: str = ""
    ) -> None:
        self._blobs = blobs
        self._boundary = boundary or secrets.token_hex(16)
        self._files = tuple((self._file_head(file), file) for file in files)
        self._text = b"".join(self._field(name, value) for name, value in fields.items() if value is not None)
        self._end = f"--{self._boundary}--\r\n".encode()
        size = sum(len(head) + file.image.size + 2 for head, file in self._files)
        self.length = len(self._text) + size + len(self._end)

    @property
    def content_type(self) -> str:
        return f"multipart/form-data; boundary={self._boundary}"

    def chunks(self) -> Iterator[bytes]:
        held = self._text
        for head, file in self._files:
            held += head
            for part in self._blobs.read_parts(file.image.blob, PART_BYTES):
                yield held + part
                held = b""
            held += b"\r\n"
        yield held + self._end

    def _field(self, name: str, value: Any) -> bytes:
        text = value if isinstance(value, str) else orjson.dumps(value).decode()
        head = f'--{self._boundary}\r\nContent-Disposition: form-data; name="{_quoted(name)}"\r\n\r\n'
        return f"{head}{text}\r\n".encode()

    def _file_head(self, file: FilePart) -> bytes:
        return (
            f"--{self._boundary}\r\n"
            f'Content-Disposition: form-data; name="{_quoted(file.name)}"; filename="{_quoted(file.file_name)}"\r\n'
            f"Content-Type: {file.image.media_type}\r\n\r\n"
        ).encode()


class BlobBody:
    """A stored image alone, as an upload takes it."""

    def __init__(self, image: StoredImage, blobs: Blobs) -> None:
        self._image = image
        self._blobs = blobs
        self.content_type = image.media_type
        self.length = image.size

    def chunks(self) -> Iterator[bytes]:
        return self._blobs.read_parts(self._image.blob, PART_BYTES)


def _quoted(text: str) -> str:
    """As browsers write names in a form (WHATWG HTML, 4.10.21.8)."""
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
