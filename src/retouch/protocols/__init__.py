"""The wire protocols, one folder each. This file imports nothing: `--help` reads it, and must be quick."""

FORWARD_PROXY_ALIASES = ("--fal-proxy",)
"""Further names of an option, by which the users of one vendor know it."""
