"""`upstream_options` of a call: parameters of hosted providers, by kind, that every face passes on as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from retouch.catalog.normaliser import check_upstream_options
from retouch.errors import InvalidRequest, InvalidType

NAME = "upstream_options"

MAX_BYTES = 20_000
"""Of all of them, as JSON: they are kept with the job."""


def read_upstream_options(value: object) -> dict[str, Mapping[str, Any]]:
    """The options of a call that has some: an object, or the text of one. Raises InvalidRequest naming them."""
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            raise InvalidType(NAME, "object", value) from None
    if not isinstance(value, dict) or not all(isinstance(options, dict) for options in value.values()):
        raise InvalidType(NAME, "object", value)
    check_upstream_options(value)
    if len(orjson.dumps(value)) > MAX_BYTES:
        raise InvalidRequest(f"The field '{NAME}' is longer than {MAX_BYTES} bytes of JSON.", field=NAME)
    return value
