"""What a provider made, as a blob: fetched by its link or taken out of its answer, and seen to be an image.

A provider's link is no more trusted than a caller's: it is followed through the connect guard, without key and cookies,
within limits of bytes, pixels and time. Declared types are not asked. It does not know what a failed download costs.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import IO, Final

import httpx2

from retouch.errors import ForbiddenAddress, InvalidImage
from retouch.images import MAX_PIXELS
from retouch.images.completeness import check_whole
from retouch.storage.addresses import OpenedAddresses
from retouch.storage.blobs import DEFAULT_TTL_S, Blobs
from retouch.storage.content_encoding import TooLarge, Undecodable, decoded
from retouch.storage.guard import Resolver, check_host, guarded_client, resolve_by_system
from retouch.storage.objects import storage_errors
from retouch.upstreams.replies import malformed
from retouch.upstreams.transport import Reply
from retouch.upstreams.upstream import Fault, FaultKind, RemoteImage, Reread, StoredResult

MAX_BYTES: Final = 50 * 1024 * 1024
TIMEOUT_S: Final = 60.0
MAX_REDIRECTS: Final = 5
PAUSES_S: Final = (0.5, 2.5)
"""Between the three tries for one image: a link may be told a moment before its file is there."""

_IN_MEMORY: Final = 512 * 1024
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(slots=True)
class _Failed(Exception):
    """One try went wrong. again: whether another may go better."""

    fault: Fault
    again: bool = True


class Downloads:
    """Takes results in; thread-safe. allow_private: `HOST[:PORT]` entries that links may lead to, the operator's and
    the upstreams' own. ttl_s: life of the blobs. pause: waits that many seconds.
    """

    def __init__(
        self,
        blobs: Blobs,
        allow_private: Sequence[str] = (),
        *,
        ttl_s: float | None = DEFAULT_TTL_S,
        max_bytes: int = MAX_BYTES,
        max_pixels: int = MAX_PIXELS,
        timeout_s: float = TIMEOUT_S,
        pauses_s: Sequence[float] = PAUSES_S,
        resolver: Resolver = resolve_by_system,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._blobs = blobs
        self._opened = OpenedAddresses.parse(allow_private)
        self._ttl_s = ttl_s
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        self._timeout_s = timeout_s
        self._pauses_s = tuple(pauses_s)
        self._resolver = resolver
        self._pause = pause

    def collect(self, image: RemoteImage, reread: Reread | None = None) -> StoredResult | Fault:
        """As `Upstream.collect`; what is sure to fail again, such as an image that is too large, is tried once."""
        for pause_s in (*self._pauses_s, None):
            if image.stored is not None:
                return image.stored
            try:
                return self._fetch(image.url or "")
            except _Failed as failed:
                if pause_s is None or not failed.again:
                    return failed.fault
            self._pause(pause_s)
            image = (reread() if reread else None) or image
        raise AssertionError("the last try returns")

    def keep(self, file: IO[bytes]) -> StoredResult | Fault:
        """The image in an open file, which stays open. The fault is BAD_IMAGE."""
        try:
            header = check_whole(file, max_pixels=self._max_pixels)
        except InvalidImage as error:
            return Fault(FaultKind.BAD_IMAGE, f"The provider's image cannot be used: {error.message}")
        size = file.seek(0, os.SEEK_END)
        key = self._blobs.reserve(header.media_type, folder="outputs", ttl_s=self._ttl_s)
        name = getattr(file, "name", None)
        if isinstance(name, str) and size > _IN_MEMORY:
            file.flush()
            self._blobs.fill(key, Path(name))
        else:
            file.seek(0)
            self._blobs.fill(key, file.read())
        return StoredResult(key, header.media_type, header.width, header.height, size)

    def images_in(
        self, reply: Reply, members: Sequence[object], unsafe: object = (), *, wanted: str = "image"
    ) -> tuple[RemoteImage, ...] | Fault:
        """Members of an answer as images: links as they stand, base64 as blobs; what is neither is left out.

        An empty string is neither. unsafe: the verdict on each, where it is a list of them. The fault is BAD_IMAGE, or
        MALFORMED, which names what is `wanted`, when there is no image.
        """
        verdicts = unsafe[: len(members)] if isinstance(unsafe, list) else ()
        images: list[RemoteImage] = []
        for member, verdict in zip_longest(members, verdicts):
            mark = verdict if isinstance(verdict, bool) else None
            if not isinstance(member, str) or not member:
                continue
            if member.startswith(("http://", "https://")):
                images.append(RemoteImage(url=member, unsafe=mark))
                continue
            file = reply.answer.image(member)
            if file is None:
                return Fault(FaultKind.BAD_IMAGE, "The provider's answer holds an image that is no base64.")
            kept = self.keep(file)
            if isinstance(kept, Fault):
                return kept
            images.append(RemoteImage(stored=kept, unsafe=mark))
        return tuple(images) or malformed(reply, wanted)

    def _fetch(self, url: str) -> StoredResult:
        try:
            with (
                tempfile.NamedTemporaryFile() as file,
                guarded_client(self._opened, timeout_s=self._timeout_s, resolver=self._resolver) as client,
            ):
                self._follow(client, url, file)
                kept = self.keep(file)
        except ForbiddenAddress as error:
            raise _Failed(_lost(error.message), again=False) from None
        except httpx2.TimeoutException:
            raise _Failed(_lost(f"The image was not complete within {self._timeout_s:g} seconds.")) from None
        except (httpx2.HTTPError, httpx2.InvalidURL):
            raise _Failed(_lost("The host of the image could not be reached, or broke off.")) from None
        if isinstance(kept, Fault):
            raise _Failed(kept)
        return kept

    def _follow(self, client: httpx2.Client, url: str, file: IO[bytes]) -> None:
        target = self._checked(httpx2.URL(url))
        for _ in range(MAX_REDIRECTS + 1):
            with client.stream("GET", target) as answer:
                if answer.status_code not in _REDIRECTS:
                    self._read(answer, file)
                    return
                location = answer.headers.get("location", "")
            client.cookies.clear()
            target = self._checked(target.join(location))
        raise _Failed(_lost(f"The link of the image redirected more than {MAX_REDIRECTS} times."), again=False)

    def _checked(self, url: httpx2.URL) -> httpx2.URL:
        if url.scheme not in _PORTS or not url.host or url.userinfo:
            raise _Failed(_lost("The provider's link of the image is not a plain http or https link."), again=False)
        check_host(url.host, url.port or _PORTS[url.scheme], self._opened)
        return url

    def _read(self, answer: httpx2.Response, file: IO[bytes]) -> None:
        if answer.status_code != 200:
            host = answer.url.host[:100]
            raise _Failed(_lost(f"'{host}' answered the link of the image with status {answer.status_code}."))
        size = 0
        for piece in answer.iter_raw():
            size += len(piece)
            if size > self._max_bytes:
                raise _Failed(self._too_large(), again=False)
            with storage_errors("written"):
                file.write(piece)
        coding = answer.headers.get("content-encoding", "")
        if not coding or coding == "identity":
            return
        # Some stores send compressed what was put there so, whatever was asked for.
        file.seek(0)
        try:
            plain = decoded(file.read(), coding, self._max_bytes)
        except TooLarge:
            raise _Failed(self._too_large(), again=False) from None
        except Undecodable:
            raise _Failed(Fault(FaultKind.BAD_IMAGE, "The image came compressed and cannot be unpacked.")) from None
        file.seek(0)
        file.truncate()
        file.write(plain)

    def _too_large(self) -> Fault:
        message = f"The provider's image has more than the {self._max_bytes} bytes allowed."
        return Fault(FaultKind.BAD_IMAGE, message)


def _lost(message: str) -> Fault:
    return Fault(FaultKind.LOST, message)
