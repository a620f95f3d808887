"""Everything the HTTP side is made of, built once by `cli/serve.py` and passed to the faces and the server.

A face gets its parts from here and reaches for nothing else. It owns nothing: the builder of the parts closes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from retouch.accounts.signing import Signer
from retouch.accounts.tokens import Tokens
from retouch.catalog import Catalog
from retouch.protocols.http import Authenticator
from retouch.service import Service
from retouch.storage.addresses import OpenedAddresses
from retouch.storage.blobs import DEFAULT_TTL_S, Blobs
from retouch.watch import Watch

MAX_BODY_BYTES = 64 * 1024 * 1024
"""The largest JSON or form body that is read; larger images come as links."""


@dataclass(frozen=True, slots=True)
class AppDependencies:
    """The parts the faces and the server work with.

    public_url: the operator's own name for this server without a trailing slash, or None to take it from each
    request. max_body_bytes: the largest request body that is read. link_ttl_s: life of the links to output files, in
    seconds. tokens: short rights made from a key. signer: of what the server sends of its own accord; both are those
    of one process unless the caller has secrets that all processes share. opened_addresses: private ones that
    a webhook may go to.
    """

    service: Service
    watch: Watch
    blobs: Blobs
    catalog: Catalog
    authenticator: Authenticator
    public_url: str | None = None
    link_ttl_s: float = DEFAULT_TTL_S
    max_body_bytes: int = MAX_BODY_BYTES
    tokens: Tokens = field(default_factory=Tokens.of_this_process)
    signer: Signer = field(default_factory=Signer.of_this_process)
    opened_addresses: OpenedAddresses = field(default_factory=OpenedAddresses)
