"""Which network addresses a caller's link may lead to.

The rule is a list of what is refused in IPv4 and of what is allowed in IPv6, spelled out here because
`ipaddress.is_global` differs between versions of Python and calls multicast, 6to4 and NAT64 global.
Pure decisions: nothing here resolves a name or opens a connection.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

from retouch.errors import InvalidRequest

_REFUSED_V4: Final = tuple(
    ip_network(block)
    for block in (
        "0.0.0.0/8",  # "this" network; Linux takes it for loopback
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT, and some clouds' metadata
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local, and most clouds' metadata
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)

_ALLOWED_V6: Final = ip_network("2000::/3")
"""All global unicast. Outside lie loopback, mapped and compatible IPv4, NAT64 (64:ff9b::), site-local, ff00::."""

_REFUSED_V6: Final = tuple(
    ip_network(block)
    for block in (
        "2001::/23",  # protocol assignments: Teredo and others that hide another address
        "2001:db8::/32",
        "2002::/16",  # 6to4 hides an IPv4 address
        "3ffe::/16",
        "3fff::/20",
    )
)

_ENDS_IN_A_NUMBER: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")

_ENTRY: Final = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)\]|(?P<name>[^\[\]\s:/@]+))(?::(?P<port>[0-9]{1,5}))?"
    r"|(?P<bare_v6>[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)"
)


def is_public(address: str) -> bool:
    """Whether `address`, in its numeric form, is globally routable unicast. A scope or zone makes it not."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv4Address):
        return parsed.is_global and not any(parsed in block for block in _REFUSED_V4)
    if parsed.scope_id is not None or parsed not in _ALLOWED_V6:
        return False
    return parsed.is_global and not any(parsed in block for block in _REFUSED_V6)


def is_suspect_name(host: str) -> bool:
    """Whether `host` need not be resolved to be refused.

    These are this machine's own names, zone ids, and numbers in other spellings than 1.2.3.4, which the
    resolver would take for addresses (2130706433, 0x7f.1, 0177.0.0.1, 127.1).
    """
    host = plain_host(host)
    if not host or "%" in host or host == "localhost" or host.endswith((".localhost", ".localdomain")):
        return True
    if _ENDS_IN_A_NUMBER.fullmatch(host):
        try:
            IPv4Address(host)
        except ValueError:
            return True
    return False


def plain_host(host: str) -> str:
    """`host` without brackets and trailing dots, in small letters; numeric IPv6 in its shortest form."""
    host = host.strip("[]").rstrip(".").lower()
    if ":" in host:
        try:
            return str(IPv6Address(host))
        except ValueError:
            return host
    return host


@dataclass(frozen=True, slots=True)
class OpenedAddresses:
    """The addresses an operator has opened one by one: (host, port), port None for all of them.

    An entry matches the host as a link writes it, whatever that resolves to, and also the numeric address
    that another name resolves to.
    """

    entries: frozenset[tuple[str, int | None]] = frozenset()

    @classmethod
    def parse(cls, texts: Iterable[str]) -> OpenedAddresses:
        """Read `HOST`, `HOST:PORT`, `::1` or `[::1]:PORT`; raises InvalidRequest for anything else."""
        entries = set()
        for text in map(str.strip, texts):
            match = _ENTRY.fullmatch(text)
            host = (match["v6"] or match["bare_v6"] or match["name"]) if match else ""
            port = int(match["port"]) if match and match["port"] else None
            try:
                known = bool(host) and (":" not in host or bool(IPv6Address(host)))
            except ValueError:
                known = False
            if not known or not (port is None or 0 < port < 65536):
                raise InvalidRequest(
                    f"'{text[:100]}' is not an address to open; write HOST or HOST:PORT, with no scheme and no path.",
                    field="allow_private",
                )
            entries.add((plain_host(host), port))
        return cls(frozenset(entries))

    def include(self, host: str, port: int) -> bool:
        host = plain_host(host)
        return (host, None) in self.entries or (host, port) in self.entries
