"""The shell lines that point a vendor's official client at this server. Prints; sets nothing and makes no file."""

from __future__ import annotations

from urllib.parse import urlsplit

from retouch.errors import InvalidSetting, NotOneOf
from retouch.protocols.face import ClientAddress, export_lines
from retouch.protocols.registry import FACES
from retouch.server.certificates import TlsFiles
from retouch.settings import HttpSettings, StoreSettings


def exports(client: str, http: HttpSettings, store: StoreSettings) -> str:
    """Shell text for `eval`. Raises NotOneOf, and InvalidSetting when there is no certificate to trust yet."""
    clients = {face.name: face.client_exports for face in FACES if face.client_exports is not None}
    if client not in clients:
        raise NotOneOf("client", client, tuple(clients))
    address = http.public_url or http.address
    proxy = None
    if http.forward_proxy:
        host = urlsplit(address).hostname or http.host
        proxy = f"http://[{host}]:{http.forward_proxy}" if ":" in host else f"http://{host}:{http.forward_proxy}"
    trust = ""
    if http.tls == "auto":
        files = TlsFiles.of(store.data)
        if not files.bundle.exists():
            raise InvalidSetting(
                f"There is no certificate in {files.folder} yet. "
                "Start 'retouch serve --tls auto' with the same --data first."
            )
        # Python reads one file instead of its own list, Node one beside it.
        trust = export_lines(SSL_CERT_FILE=str(files.bundle), NODE_EXTRA_CA_CERTS=str(files.authority))
    return trust + clients[client](ClientAddress(address, proxy))
