"""Puts the caller's own name of a field into an error or a notice, where ours stands. It knows no vendor's names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from retouch.edit import Notice
from retouch.errors import Failure

WireName = Callable[[str], str]
"""A canonical field, such as `images[0]` or `num_images`, to what the caller calls it."""


def failure_in_wire_names(failure: Failure, wire_name: WireName) -> Failure:
    """The failure with the caller's name as its field and in its sentence."""
    if failure.field is None:
        return failure
    name = wire_name(failure.field)
    return replace(failure, field=name, message=failure.message.replace(f"'{failure.field}'", f"'{name}'"))


def notices_in_wire_names(notices: Iterable[Notice], wire_name: WireName) -> tuple[Notice, ...]:
    """Each notice once, under the caller's name of its parameter."""
    return tuple(dict.fromkeys(replace(notice, parameter=wire_name(notice.parameter)) for notice in notices))


def dump_notices(notices: Iterable[Notice]) -> list[dict[str, str]]:
    """As every face puts them into its body."""
    return [{"parameter": n.parameter, "action": n.action, "detail": n.detail} for n in notices]
