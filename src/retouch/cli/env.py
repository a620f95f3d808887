"""The shell lines that point a vendor's official client at this server. Prints; sets nothing."""

from __future__ import annotations

from urllib.parse import urlsplit

from retouch.errors import NotOneOf

CLIENTS = ("openai", "fal", "runpod")


def exports(client: str, address: str) -> str:
    """Shell text for `eval`; `address` is this server's URL without a trailing slash."""
    if client == "openai":
        return _lines(OPENAI_BASE_URL=f"{address}/v1", OPENAI_API_KEY="any")
    if client == "fal":
        return _fal(address)
    if client == "runpod":
        return _lines(RUNPOD_ENDPOINT_BASE_URL=f"{address}/v2", RUNPOD_API_KEY="any")
    raise NotOneOf("client", client, CLIENTS)


def _fal(address: str) -> str:
    """fal's client builds https addresses from host names, whatever they are; a path may follow the host."""
    parts = urlsplit(address)
    place = parts.netloc + parts.path
    lines = _lines(FAL_KEY="any", FAL_RUN_HOST=f"{place}/fal/run", FAL_QUEUE_RUN_HOST=f"{place}/fal/queue")
    if parts.scheme == "https":
        return lines
    return lines + "# fal's client always speaks https: put a proxy with a certificate before this address.\n"


def _lines(**variables: str) -> str:
    return "".join(f"export {name}={value}\n" for name, value in variables.items())
