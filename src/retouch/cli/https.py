"""What `--tls auto` and `--forward-proxy` add to `retouch serve`: certificates that renew themselves, and a proxy."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn

from retouch.errors import InvalidSetting
from retouch.server import certificates
from retouch.server.forward_proxy import forward_proxy
from retouch.settings import HttpSettings, StoreSettings


def listening_socket(host: str, port: int, option: str) -> socket.socket:
    """A bound socket; raises InvalidSetting when the address is taken or not ours. `option` chooses the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise InvalidSetting(
            f"Cannot listen on {host} port {port}: {error.strerror or error}. Choose another with {option} or --host."
        ) from None
    return listener


def use_own_certificate(
    http: HttpSettings, store: StoreSettings, config: uvicorn.Config, stop: threading.Event
) -> Path:
    """Make `config` speak https, until `stop` with a certificate that has not expired; what clients must trust."""
    names = certificates.names_for(http.host, http.public_url)
    files = certificates.ensure(certificates.TlsFiles.of(store.data), names)
    config.ssl_certfile = files.server

    def context() -> ssl.SSLContext:
        assert config.ssl is not None, "made when the server started"
        return config.ssl

    threading.Thread(target=certificates.renew_daily, args=(files, names, context, stop), daemon=True).start()
    return files.authority


def open_forward_proxy(http: HttpSettings, port: int) -> AbstractContextManager[None]:
    """The forward proxy to this server; raises InvalidSetting without certificates for the names it leads here."""
    if http.tls != "auto":
        raise InvalidSetting("--forward-proxy needs --tls auto: clients speak https through it.")
    if port == http.port:
        raise InvalidSetting(f"--forward-proxy and --port are both {port}; the proxy needs a port of its own.")
    listener = listening_socket(http.host, port, "--forward-proxy")
    return forward_proxy(listener, (urlsplit(http.address).hostname or http.host, http.port))
