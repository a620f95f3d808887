"""What an operator sets of one upstream, for the folder that speaks its protocol. A key is never in here as text."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from retouch.storage.blobs import DEFAULT_TTL_S, Blobs
from retouch.storage.guard import Resolver, resolve_by_system
from retouch.upstreams.downloads import PAUSES_S, Downloads
from retouch.upstreams.inputs import Uploads
from retouch.upstreams.transport import ANSWER_S, Transport, WriteKey
from retouch.upstreams.upstream import ImageMode


@dataclass(frozen=True, slots=True)
class UpstreamOptions:
    """One `[upstreams.NAME]`.

    base_url: None takes the provider's own. key: writes it into a header. paid: a submit costs money; None
    takes what is usual for the kind. metered: it is paid by the second of a machine, failed or not, and not by result.
    ttl_s, execution_s: how long a job may wait and run there, for providers that can be told.
    unit_price: of what the provider counts in its answers, by endpoint, in millionths of a dollar; None: not known.
    workspace: DashScope's. allow_private: `HOST[:PORT]` that results may be fetched from besides the upstream's own
    address. results_ttl_s: life of the images that come in. pauses_s: between tries of a download.
    answer_s: how long a request may take that is not answered with an image.
    """

    blobs: Blobs
    key: WriteKey
    base_url: str | None = None
    images: ImageMode = ImageMode.AUTO
    paid: bool | None = None
    metered: bool = False
    ttl_s: float | None = None
    execution_s: float | None = None
    unit_price: Callable[[str], int | None] = lambda _: None
    workspace: str | None = None
    allow_private: Sequence[str] = ()
    results_ttl_s: float | None = DEFAULT_TTL_S
    pauses_s: Sequence[float] = PAUSES_S
    resolver: Resolver = resolve_by_system
    answer_s: float = ANSWER_S
    trust: ssl.SSLContext | None = None

    def transport(self, base_url: str, scheme: str) -> Transport:
        return Transport(base_url, scheme, self.key, answer_s=self.answer_s, trust=self.trust)

    def downloads(self, own: Transport) -> Downloads:
        """Takes in results; an upstream's own address is open to them, since the operator has named it."""
        return Downloads(
            self.blobs,
            self._open(own),
            ttl_s=self.results_ttl_s,
            pauses_s=self.pauses_s,
            resolver=self.resolver,
        )

    def uploads(self, own: Transport) -> Uploads:
        """Sends inputs to where a provider wants them put, judged like the links of its results."""
        return Uploads(self._open(own), resolver=self.resolver)

    def _open(self, own: Transport) -> tuple[str, ...]:
        host, port = own.origin
        return (*self.allow_private, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
