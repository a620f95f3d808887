"""How a provider gets the input images: by our link, by its own upload, or inside the request.

A link costs neither of us a byte of the request; an upload costs a request more, and still leaves the paid one small
enough to be told from a broken one. What goes inside is read from the blob store in pieces while the body is sent, as
a file part or as base64 between the parts of a JSON document, and the body's exact length is known before its first
byte is read. What a body holds around the images is the kind's matter.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeAlias

import httpx2
import orjson
import pybase64

from retouch.edit import ImageInput
from retouch.errors import ForbiddenAddress
from retouch.images.decoding import sniff
from retouch.storage.addresses import OpenedAddresses
from retouch.storage.blobs import Blobs
from retouch.storage.guard import Resolver, guarded_client, resolve_by_system
from retouch.upstreams.upstream import Call, Fault, FaultKind, ImageMode

PART_BYTES: Final = 3 * 16 * 1024
"""A multiple of three, so that pieces of base64 can be put one behind the other; 64 kB once encoded."""

UPLOAD_S: Final = 120.0

REUSED_S: Final = 600.0
"""How long an upload is named again for the same blob: an edit of several images is several submits, and one that is
repeated must be the same. Every provider keeps uploads longer.
"""

_REMEMBERED: Final = 1024


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


Upload: TypeAlias = Callable[[StoredImage], str | Fault]
"""Sends an image to the provider's own store and returns the link that a submit may name."""


class CannotSend(Exception):
    """An input cannot be given to the provider; nothing was submitted."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs of one upstream's calls. upload: None where the provider has none, or none is used."""

    blobs: Blobs
    mode: ImageMode = ImageMode.AUTO
    upload: Upload | None = None

    def members(self, call: Call) -> dict[str, Any]:
        """What the provider is asked, under its own names: the parameters, then the images, then what is passed on.

        `Inline` stands where an image's bytes go. Raises CannotSend.
        """
        normalised = call.normalised
        images: dict[str, Any] = {}
        for field in (normalised.images, normalised.mask):
            if field is not None:
                values = [self.value(call, image) for image in field.images]
                images[field.name] = values[0] if field.shape == "one" else values
        return {**parameters_of(call), **images, **normalised.options}

    def value(self, call: Call, image: ImageInput) -> str | Inline:
        """A link, or the image itself. Raises CannotSend."""
        link = call.links.get(image.field)
        if link is not None and self.mode in (ImageMode.AUTO, ImageMode.LINK):
            return link
        if image.blob is None:
            return link or str(image.url)
        if self.mode is ImageMode.LINK:
            message = "This upstream is given links only, and no public address is set for them (public_url)."
            raise CannotSend(Fault(FaultKind.INVALID, message, charged=False))
        stored = StoredImage.of(self.blobs, image.blob)
        if self.upload is None or self.mode is ImageMode.INLINE:
            return Inline(stored)
        uploaded = self.upload(stored)
        if isinstance(uploaded, Fault):
            # An upload without an answer is no submit of unknown outcome: the submit was never sent.
            unanswered = uploaded.kind in (FaultKind.NO_ANSWER, FaultKind.MALFORMED)
            kind = FaultKind.INTERRUPTED if unanswered else uploaded.kind
            raise CannotSend(replace(uploaded, kind=kind, charged=False))
        return uploaded

    def match(self, sent: object, call: Call, *, by_links: bool = True) -> bool:
        """Whether an input in a provider's history is this call's: the same seed where one is sent, and our links where
        they are. Never by the words of the prompt, which two callers may share. by_links: False for a call whose links
        may have been made anew since.
        """
        normalised = call.normalised
        if not isinstance(sent, Mapping):
            return False
        if normalised.seed_field is not None and sent.get(normalised.seed_field) != call.seed:
            return False
        if not by_links or self.mode not in (ImageMode.AUTO, ImageMode.LINK):
            return normalised.seed_field is not None
        links = [call.links[image.field] for image in normalised.images.images if image.field in call.links]
        links_sent = sent.get(normalised.images.name)
        links_sent = links_sent if isinstance(links_sent, list) else [links_sent]
        return links_sent[: len(links)] == links if links else normalised.seed_field is not None

    def stored(self, image: ImageInput) -> StoredImage:
        """The image for a file part. Raises CannotSend for one that is a link still."""
        if image.blob is None:
            message = f"'{image.field}' is a link; this upstream is sent files only."
            raise CannotSend(Fault(FaultKind.INVALID, message, charged=False))
        return StoredImage.of(self.blobs, image.blob)


def parameters_of(call: Call) -> Mapping[str, Any]:
    """The parameters with this call's own seed in its place."""
    normalised = call.normalised
    if normalised.seed_field is None:
        return normalised.parameters
    return {
        name: call.seed if name == normalised.seed_field else value for name, value in normalised.parameters.items()
    }


class Uploads:
    """Thread-safe. allow_private: `HOST[:PORT]` that may be sent to although it is not public."""

    def __init__(self, allow_private: Sequence[str] = (), *, resolver: Resolver = resolve_by_system) -> None:
        self._opened = OpenedAddresses.parse(allow_private)
        self._resolver = resolver

    def put(
        self, url: str, body: Body, headers: Mapping[str, str] | None = None, *, method: str = "PUT"
    ) -> Fault | None:
        """Send it; None when it was taken. No redirect is followed.

        Raises StorageUnavailable or UnknownFile when our own store fails meanwhile.
        """
        sent = {"Content-Type": body.content_type, "Content-Length": str(body.length), **(headers or {})}
        try:
            with (
                guarded_client(self._opened, timeout_s=UPLOAD_S, resolver=self._resolver) as client,
                client.stream(method, url, content=body.chunks(), headers=sent) as answer,
            ):
                status, host = answer.status_code, answer.url.host[:100]
        except ForbiddenAddress as error:
            return Fault(FaultKind.SERVER, error.message, charged=False)
        except (httpx2.HTTPError, httpx2.InvalidURL):
            return Fault(
                FaultKind.INTERRUPTED, "The provider's store for inputs did not take the image.", charged=False
            )
        if 200 <= status < 300:
            return None
        kind = FaultKind.INVALID if status == 413 else FaultKind.SERVER
        return Fault(kind, f"'{host}' answered the upload of an image with status {status}.", status, charged=False)


def once(upload: Upload) -> Upload:
    """The same upload, made once for each blob within a while; thread-safe."""
    links: OrderedDict[str, tuple[float, str]] = OrderedDict()
    lock = threading.Lock()

    def uploaded(image: StoredImage) -> str | Fault:
        with lock:
            made_at, link = links.get(image.blob, (float("-inf"), ""))
        if time.monotonic() - made_at < REUSED_S:
            return link
        made = upload(image)
        if isinstance(made, str):
            with lock:
                links[image.blob] = (time.monotonic(), made)
                if len(links) > _REMEMBERED:
                    links.popitem(last=False)
        return made

    return uploaded


class Body(Protocol):
    """content_type, and length in bytes: exactly what `chunks` will give, which may be asked for again."""

    @property
    def content_type(self) -> str: ...

    @property
    def length(self) -> int: ...

    def chunks(self) -> Iterator[bytes]: ...


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
        lead = f"--{self._boundary}\r\nContent-Disposition: form-data; name="
        text = ""
        for name, value in fields.items():
            if value is not None:
                written = value if isinstance(value, str) else orjson.dumps(value).decode()
                text += f'{lead}"{_quoted(name)}"\r\n\r\n{written}\r\n'
        self._text = text.encode()
        heads = [
            f'{lead}"{_quoted(file.name)}"; filename="{_quoted(file.file_name)}"\r\n'
            f"Content-Type: {file.image.media_type}\r\n\r\n"
            for file in files
        ]
        self._files = tuple(zip([head.encode() for head in heads], files, strict=True))
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
