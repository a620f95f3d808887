"""The shell lines that point a vendor's official client at this server. Prints; sets nothing and makes no file."""

from __future__ import annotations

import shlex
from urllib.parse import urlsplit

from retouch.errors import InvalidSetting, NotOneOf
from retouch.server.tls import TlsFiles
from retouch.settings import HttpSettings, StoreSettings

CLIENTS = ("openai", "fal", "runpod")


def exports(client: str, http: HttpSettings, store: StoreSettings) -> str:
    """Shell text for `eval`. Raises NotOneOf, and InvalidSetting when there is no certificate to trust yet."""
    address = http.public_url or http.address
    trust = _trust(TlsFiles.of(store.data)) if http.tls == "auto" else ""
    if client == "openai":
        return trust + _lines(OPENAI_BASE_URL=f"{address}/v1", OPENAI_API_KEY="any")
    if client == "fal":
        return trust + (_fal_by_proxy(http) if http.fal_proxy else _fal(address))
    if client == "runpod":
        return trust + _lines(RUNPOD_ENDPOINT_BASE_URL=f"{address}/v2", RUNPOD_API_KEY="any")
    raise NotOneOf("client", client, CLIENTS)


def _trust(files: TlsFiles) -> str:
    """Python reads one file instead of its own list, Node one beside it."""
    if not files.bundle.exists():
        raise InvalidSetting(
            f"There is no certificate in {files.folder} yet. "
            "Start 'retouch serve --tls auto' with the same --data first."
        )
    return _lines(SSL_CERT_FILE=str(files.bundle), NODE_EXTRA_CA_CERTS=str(files.authority))


def _fal(address: str) -> str:
    """fal's Python client builds https addresses from host names, whatever they are; a path may follow the host."""
    parts = urlsplit(address)
    place = parts.netloc + parts.path
    lines = _lines(FAL_KEY="any", FAL_RUN_HOST=f"{place}/fal/run", FAL_QUEUE_RUN_HOST=f"{place}/fal/queue")
    if parts.scheme != "https":
        lines += "# fal's Python client speaks https only: use --tls auto, or a proxy with a certificate.\n"
    return lines + _FAL_NOTES.format(address=address)


def _fal_by_proxy(http: HttpSettings) -> str:
    host = urlsplit(http.public_url or http.address).hostname or http.host
    proxy = f"http://[{host}]:{http.fal_proxy}" if ":" in host else f"http://{host}:{http.fal_proxy}"
    return _lines(FAL_KEY="any", HTTPS_PROXY=proxy, NODE_USE_ENV_PROXY="1") + _PROXY_NOTES


_PROXY_NOTES = """\
unset FAL_RUN_HOST FAL_QUEUE_RUN_HOST https_proxy NO_PROXY no_proxy
# Every https call of a program started here goes to the proxy, which leads fal's hosts to this server and refuses
# every other host. It serves all of Python's client, and Node's from Node 24 on.
"""

_FAL_NOTES = """\
# Python: these variables lead run, subscribe, submit, status, result, cancel and stream here, but neither uploads
# nor realtime tokens. For those use --fal-proxy, or say before the first call:
#   from fal_client import client
#   client.REST_URL, client.CDN_URL = "{address}/fal/rest", "{address}/fal/cdn"
# JavaScript reads no variable but FAL_KEY; in the code:
#   fal.config({{ proxyUrl: {{ url: "{address}/fal/proxy", when: "always" }} }})
"""


def _lines(**variables: str) -> str:
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
