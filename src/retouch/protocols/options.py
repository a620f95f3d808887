"""Further names of options, by which the users of one vendor know them. Imports nothing: `--help` must be quick."""

from __future__ import annotations

FORWARD_PROXY_ALIASES = ("--fal-proxy",)
