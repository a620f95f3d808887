"""Puts an input where a provider's answer wants it: an address of its choice, so judged, and without any key."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import httpx2

from retouch.errors import ForbiddenAddress
from retouch.storage.addresses import OpenedAddresses
from retouch.storage.guard import Resolver, guarded_client, resolve_by_system
from retouch.upstreams.bodies import Body, StoredImage
from retouch.upstreams.upstream import Fault, FaultKind

TIMEOUT_S: Final = 120.0

REUSED_S: Final = 600.0
"""How long an upload is named again for the same blob: an edit of several images is several submits, and one that is
repeated must be the same. Every provider keeps uploads longer.
"""

_REMEMBERED: Final = 1024


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
                guarded_client(self._opened, timeout_s=TIMEOUT_S, resolver=self._resolver) as client,
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


def once(upload: Callable[[StoredImage], str | Fault]) -> Callable[[StoredImage], str | Fault]:
    """The same upload, made once for each blob within a while; thread-safe."""
    links: OrderedDict[str, tuple[float, str]] = OrderedDict()
    lock = threading.Lock()

    def uploaded(image: StoredImage) -> str | Fault:
        with lock:
            made_at, link = links.get(image.blob, (float("-inf"), ""))
        if time.monotonic() - made_at < REUSED_S:
            return link
        told = upload(image)
        if isinstance(told, str):
            with lock:
                links[image.blob] = (time.monotonic(), told)
                if len(links) > _REMEMBERED:
                    links.popitem(last=False)
        return told

    return uploaded
