"""The record of the fal protocol and of the shape in which resellers pass it on."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from retouch.protocols.face import ClientAddress, Face, Mount, export_lines
from retouch.protocols.fal.dump import BILLABLE_UNITS_HEADER, NOTICES_HEADER, REQUEST_ID_HEADER
from retouch.protocols.fal.reseller import ID_HEADERS, create_usage_face
from retouch.protocols.fal.reseller import create_face as create_reseller_face
from retouch.protocols.fal.routes import create_face
from retouch.protocols.fal.submit import PROTOCOL
from retouch.protocols.fal.vendor_hosts import SERVICES, ByHost
from retouch.protocols.fal.webhooks import message

MOUNT = "/fal"

_PROXY_NOTES = """\
unset FAL_RUN_HOST FAL_QUEUE_RUN_HOST https_proxy NO_PROXY no_proxy
# Every https call of a program started here goes to the proxy, which leads fal's hosts to this server and refuses
# every other host. It serves all of Python's client, and Node's from Node 24 on.
"""

_NOTES = """\
# Python: these variables lead run, subscribe, submit, status, result, cancel and stream here, but neither uploads
# nor realtime tokens. For those use --forward-proxy, or say before the first call:
#   from fal_client import client
#   client.REST_URL, client.CDN_URL = "{address}/fal/rest", "{address}/fal/cdn"
# JavaScript reads no variable but FAL_KEY; in the code:
#   fal.config({{ proxyUrl: {{ url: "{address}/fal/proxy", when: "always" }} }})
"""


def _client_exports(client: ClientAddress) -> str:
    """fal's Python client builds https addresses from host names, whatever they are; a path may follow the host."""
    if client.forward_proxy is not None:
        return export_lines(FAL_KEY="any", HTTPS_PROXY=client.forward_proxy, NODE_USE_ENV_PROXY="1") + _PROXY_NOTES
    parts = urlsplit(client.url)
    host = parts.netloc + parts.path
    lines = export_lines(FAL_KEY="any", FAL_RUN_HOST=f"{host}/fal/run", FAL_QUEUE_RUN_HOST=f"{host}/fal/queue")
    if parts.scheme != "https":
        lines += "# fal's Python client speaks https only: use --tls auto, or a proxy with a certificate.\n"
    return lines + _NOTES.format(address=client.url)


FACE = Face(
    name=PROTOCOL,
    mounts=(
        Mount(MOUNT, create_face, (REQUEST_ID_HEADER,)),
        Mount("/fal-ai", create_reseller_face, ID_HEADERS),
        Mount("/api/usage", create_usage_face, ID_HEADERS),
    ),
    webhook=message,
    vendor_hosts={host: MOUNT + service for host, service in SERVICES.items()},
    by_host=ByHost,
    quiet_paths=re.compile(r"/.+/requests/[^/]+/status/?"),
    exposed_headers=(
        "x-fal-request-timeout-type",
        "x-fal-error-type",
        BILLABLE_UNITS_HEADER,
        "x-fal-needs-retry",
        "x-fal-retryable",
        NOTICES_HEADER,
    ),
    client_exports=_client_exports,
)
