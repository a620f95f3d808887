"""What every face is given when the server is put together; no face reaches for anything else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from retouch.accounts.keys import Account
from retouch.accounts.signing import Signer
from retouch.accounts.tokens import Tokens
from retouch.catalog import Catalog
from retouch.service import Service
from retouch.storage.blobs import Blobs
from retouch.watch import Watch


@dataclass(frozen=True, slots=True)
class FaceContext:
    """The parts a face works with.

    authenticate: the caller's bare credential, or None when there was none, to an Account; raises
    InvalidKey. public_url: the operator's own name for this server without a trailing slash, or None to
    take it from each request. max_body_bytes: the largest request body that is read.
    link_ttl_s: life of the links to output files, in seconds. tokens: short rights made from a key. signer: of
    what the server sends of its own accord.
    """

    service: Service
    watch: Watch
    blobs: Blobs
    catalog: Catalog
    authenticate: Callable[[str | None], Awaitable[Account]]
    public_url: str | None
    max_body_bytes: int
    link_ttl_s: float
    tokens: Tokens
    signer: Signer
