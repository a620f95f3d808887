"""The endpoints that can be called, and how each differs from the catalogue's row behind it. Checks nothing."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from retouch.errors import UnknownModel

UNASKED_SIZE = "1328*1328"
"""What the Vercel provider sends when its user named no size."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint. model: id of the row in the catalogue.

    default_size: what an absent `size` means, `width*height`; None follows the last input image. unasked_size: a
    `size` that counts as absent.
    """

    id: str
    model: str
    default_size: str | None = None
    unasked_size: str | None = None


ENDPOINTS: Mapping[str, Endpoint] = {
    endpoint.id: endpoint
    for endpoint in (
        Endpoint("qwen-image-edit", "qwen-image-edit", unasked_size=UNASKED_SIZE),
        Endpoint("qwen-image-edit-2511", "qwen-image-edit-plus", default_size="1024*1024"),
        Endpoint("qwen-image-edit-2511-lora", "qwen-image-edit-plus", default_size="1024*1024"),
    )
}


def endpoint_named(endpoint_id: str) -> Endpoint:
    """The endpoint of that id; raises UnknownModel with a suggestion."""
    endpoint = ENDPOINTS.get(endpoint_id)
    if endpoint is None:
        near = difflib.get_close_matches(endpoint_id[:100], ENDPOINTS, n=1)
        hint = f"Did you mean '{near[0]}'?" if near else f"There are: {', '.join(ENDPOINTS)}."
        raise UnknownModel(f"There is no endpoint '{endpoint_id[:100]}' here. {hint}")
    return endpoint
