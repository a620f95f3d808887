"""Downloads a caller's image: one link in, its bytes out, within limits of size, time and redirects.

Where a link may lead is `guard.py`'s to decide. The bytes are not looked at: `images/` does that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import httpx2

from retouch.errors import ImageTooLarge, ImageUnreachable
from retouch.storage.addresses import OpenedAddresses
from retouch.storage.content_encoding import TooLarge, Undecodable, decoded
from retouch.storage.guard import Resolver, check_host, guarded_client, resolve_by_system

MAX_BYTES: Final = 50 * 1024 * 1024
"""fal's and OpenAI's own limit for one image."""

TIMEOUT_S: Final = 20.0
MAX_REDIRECTS: Final = 5

_HEADERS: Final = {
    "User-Agent": "Mozilla/5.0 (compatible; Retouch)",  # some hosts refuse what is no browser
    "Accept": "image/*,*/*;q=0.5",
}
_REDIRECTS: Final = (301, 302, 303, 307, 308)

_Taken = TypeVar("_Taken")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class Fetcher:
    """Fetches links for callers; thread-safe, and nothing is shared between two fetches.

    allow_private: `HOST[:PORT]` entries that the operator has opened. max_bytes: of one image, counted as
    they arrive and once more unpacked. timeout_s: for everything together, redirects included (one slow
    look-up of a name may exceed it). max_redirects: hops after the first answer; each is judged like the first.
    """

    def __init__(
        self,
        allow_private: Sequence[str] = (),
        *,
        max_bytes: int = MAX_BYTES,
        timeout_s: float = TIMEOUT_S,
        max_redirects: int = MAX_REDIRECTS,
        resolver: Resolver = resolve_by_system,
    ) -> None:
        self._opened = OpenedAddresses.parse(allow_private)
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._max_redirects = max_redirects
        self._resolver = resolver

    def fetch(self, url: str, *, field: str = "images[0]") -> bytes:
        """The body behind `url`.

        Raises ForbiddenAddress, ImageUnreachable (no answer, a bad one, too slow) or ImageTooLarge, naming
        `field`. The messages name the host and the status, never anything the other side sent.
        """
        with _naming(field):
            return self._follow(url, self._body)

    def fetch_to(self, url: str, into: Path, *, field: str) -> None:
        """Write the body behind `url` into a file as it arrives. Raises what `fetch` raises, and OSError."""
        with _naming(field):
            self._follow(url, partial(self._write, into))

    def check(self, url: str, *, field: str = "images[0]") -> None:
        """Refuse at once what `fetch` would refuse without looking up a name. Raises like `fetch`."""
        with _naming(field):
            self._checked(url)

    def _follow(self, url: str, take: Callable[[httpx2.Response], _Taken]) -> _Taken:
        with guarded_client(self._opened, timeout_s=self._timeout_s, resolver=self._resolver) as client:
            target = self._checked(url)
            for _ in range(self._max_redirects + 1):
                try:
                    with client.stream("GET", target, headers=_HEADERS) as answer:
                        if answer.status_code not in _REDIRECTS:
                            return take(answer)
                        location = answer.headers.get("location", "")
                except httpx2.TimeoutException:
                    late = f"did not answer completely within {self._timeout_s:g} seconds"
                    raise _unreachable(target, late) from None
                except (httpx2.HTTPError, httpx2.InvalidURL):
                    raise _unreachable(target, "could not be reached, or broke off") from None
                client.cookies.clear()  # no host learns what another one set
                target = self._checked(location, base=target)
            raise _unreachable(target, f"redirected more than {self._max_redirects} times")

    def _checked(self, text: str, base: httpx2.URL | None = None) -> httpx2.URL:
        """`text` as a URL that may be asked for, resolved against the page it stood on."""
        try:
            url = httpx2.URL(text) if base is None else base.join(text)
        except (httpx2.InvalidURL, TypeError, ValueError):
            raise ImageUnreachable("The link is not a valid URL.") from None
        if url.scheme not in _DEFAULT_PORTS or not url.host:
            raise ImageUnreachable("The link must begin with http:// or https:// and name a host.")
        if url.userinfo:
            raise _unreachable(url, "was given a user name or password in its link, which is never sent")
        check_host(url.host, url.port or _DEFAULT_PORTS[url.scheme], self._opened)
        return url

    def _parts(self, answer: httpx2.Response) -> Iterator[bytes]:
        """The body as it arrives, as long as it is not too large."""
        if answer.status_code != 200:
            raise _unreachable(answer.url, f"answered with status {answer.status_code}")
        if answer.headers.get("content-length", "0").isdigit():
            self._check_size(int(answer.headers.get("content-length", "0")))
        size = 0
        for part in answer.iter_raw():
            size += len(part)
            self._check_size(size)
            yield part

    def _write(self, into: Path, answer: httpx2.Response) -> None:
        if answer.headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise _unreachable(answer.url, "sent a compressed body, which is not unpacked for a file")
        with into.open("wb") as file:
            for part in self._parts(answer):
                file.write(part)

    def _body(self, answer: httpx2.Response) -> bytes:
        body = bytearray()
        for part in self._parts(answer):
            body += part
        # asked for as they are, but S3 and some caches send compressed what was stored so
        try:
            return decoded(bytes(body), answer.headers.get("content-encoding", ""), self._max_bytes)
        except TooLarge:
            raise self._too_large() from None
        except Undecodable:
            raise _unreachable(answer.url, "sent a compressed body that cannot be unpacked") from None

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise self._too_large()

    def _too_large(self) -> ImageTooLarge:
        return ImageTooLarge(
            f"The file behind the link has more than the {self._max_bytes} bytes allowed.", max_bytes=self._max_bytes
        )


@contextmanager
def _naming(field: str) -> Iterator[None]:
    """What is refused inside is refused with the name of `field`."""
    try:
        yield
    except (ImageUnreachable, ImageTooLarge) as error:
        error.field = field
        raise


def _unreachable(url: httpx2.URL, what: str) -> ImageUnreachable:
    return ImageUnreachable(f"The host '{url.host[:100]}' {what}.")
