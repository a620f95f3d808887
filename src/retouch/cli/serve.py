"""`retouch serve`: builds the HTTP process and its gateway, starts the workers, and has the banner say what is ready.

Imports no torch. The order matters to the operator: a taken port, a folder that cannot be written or a missing
key is reported before anything is started.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import structlog
import uvicorn
from pydantic import BaseModel, SecretStr
from starlette.types import ASGIApp

from retouch.accounts import signing, tokens
from retouch.accounts.keys import Keys
from retouch.accounts.secrets import server_secret_named
from retouch.accounts.signing import Signer
from retouch.accounts.tokens import Tokens
from retouch.accounts.upstream_keys import UpstreamKeys
from retouch.catalog import HOSTED, Catalog, checkpoints_named
from retouch.cli.database import open_database
from retouch.cli.loras import with_fast_lora
from retouch.cli.policy import check_rewriter, check_safety, provenance_of
from retouch.cli.process import keep_freed_memory, set_up_logging, worker_name
from retouch.cli.startup_banner import StartupBanner
from retouch.database import Database
from retouch.errors import InvalidSetting
from retouch.jobs.job import utc_now
from retouch.jobs.wakeups import open_wakeups
from retouch.protocols.dependencies import MAX_BODY_BYTES, AppDependencies
from retouch.protocols.http import Authenticator
from retouch.server import certificates
from retouch.server.app import create_app
from retouch.server.forward_proxy import forward_proxy
from retouch.server.supervisor import Supervisor
from retouch.server.webhooks import Webhooks
from retouch.service import Dispatch, Service, ServiceSettings
from retouch.settings import (
    PREFIX,
    HttpSettings,
    LoraSettings,
    ModelSettings,
    NetworkSettings,
    ProcessSettings,
    ProvenanceSettings,
    RewriterSettings,
    RoutesSettings,
    SafetySettings,
    StoreSettings,
)
from retouch.storage.addresses import OpenedAddresses
from retouch.storage.blobs import Blobs
from retouch.storage.caller_bucket import CallerBuckets
from retouch.storage.fetch import Fetcher
from retouch.storage.open import open_blobs
from retouch.upstreams.delivery import Delivery
from retouch.upstreams.edit_run import Parts
from retouch.upstreams.gateway import Gateway
from retouch.upstreams.loaded_routes import LoadedRoutes
from retouch.upstreams.routes import Dispatcher
from retouch.watch import Watch

logger = structlog.get_logger(__name__)

OPEN_REQUESTS_S = 5
"""How long a stop waits for answers that are under way."""

KEPT_MEGABYTES = 64
"""Enough for the bodies and answers of a few callers at a time."""


def serve(  # noqa: PLR0917 - one settings class for each component
    http: HttpSettings,
    store: StoreSettings,
    model: ModelSettings,
    loras: LoraSettings,
    network: NetworkSettings,
    processes: ProcessSettings,
    safety: SafetySettings,
    rewriter: RewriterSettings,
    provenance: ProvenanceSettings,
    routes: RoutesSettings,
) -> None:
    """Serve until SIGTERM or an interrupt. Raises RetouchError with a sentence for the operator."""
    set_up_logging(processes.log_level)
    keep_freed_memory(KEPT_MEGABYTES)
    named = checkpoints_named(model.model, accept_research_licence=model.accept_research_licence)
    checkpoints = with_fast_lora(named, loras)
    catalog = Catalog.serving(*checkpoints)
    for checkpoint in checkpoints:
        check_safety(safety, checkpoint)
        check_rewriter(rewriter, checkpoint)
    provenance_of(provenance)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listening_socket(http.host, http.port, "--port"))
        database = stack.enter_context(open_database(store))
        blobs = open_blobs(store.storage, store.data)
        hosted = None
        if routes.routes is not None:
            opened = open_hosted(routes.routes, http, store, network, database, blobs, catalog)
            hosted = stack.enter_context(opened)
        dispatch = None if hosted is None else hosted.dispatch
        dependencies = stack.enter_context(
            open_dependencies(http, store, catalog, database, network.allow_private, blobs=blobs, dispatch=dispatch)
        )
        dependencies.authenticator.refuse_unauthenticated(http.host)
        gateway, keys = None, None
        if hosted is not None:
            gateway, keys = hosted.gateway(dependencies.service), hosted.keys
            hosted.reload_on_hangup()
        workers = processes.workers if set(catalog.queues) - {HOSTED.name} else 0  # nothing to load
        webhooks = Webhooks(database, dependencies.service, allow_private=network.allow_private)
        stop = threading.Event()
        server = _Server(create_app(dependencies, webhooks, http.forwarded_allow_ips, gateway, keys))
        certificate = use_own_certificate(http, store, server.config, stop) if http.tls == "auto" else None
        if http.forward_proxy is not None:
            stack.enter_context(open_forward_proxy(http, http.forward_proxy))
        supervisor = Supervisor(
            (sys.executable, "-m", "retouch", "worker", "--attached"),
            # One check is one thread: with several, two checks at a time take longer together than in turn.
            {
                "OPENBLAS_NUM_THREADS": "1",
                **os.environ,
                **as_variables(store, model, loras, network, processes, safety, rewriter, provenance),
            },
            workers,
            fatal=server.give_up,
        )
        supervisor.start()
        needs_key = dependencies.authenticator.needs_key()
        banner = StartupBanner(http, catalog, workers, needs_key, certificate)
        announcer = threading.Thread(target=banner.tell, args=(dependencies.service, stop), daemon=True)
        announcer.start()
        try:
            server.run(sockets=[listener])
        finally:
            stop.set()
            supervisor.stop()
            announcer.join()
    if server.gave_up:
        names = " or ".join(f"'{name}'" for name in catalog.queues)
        raise InvalidSetting(f"The worker cannot run {names}; see its message above.")


@contextlib.contextmanager
def open_dependencies(
    http: HttpSettings,
    store: StoreSettings,
    catalog: Catalog,
    database: Database,
    allow_private: Sequence[str] = (),
    *,
    blobs: Blobs | None = None,
    dispatch: Dispatch | None = None,
) -> Iterator[AppDependencies]:
    """Everything the application is made of, closed at the end. dispatch: where models lead to hosted providers."""
    blobs = blobs or open_blobs(store.storage, store.data)
    wakeups = open_wakeups(database, store.data)
    settings = ServiceSettings(retention_s=store.retention_s)
    service = Service(database, blobs, catalog, wakeups, settings, dispatch=dispatch)
    authenticator = Authenticator(Keys(database), loopback=http.loopback, no_auth=http.no_auth)
    try:
        yield AppDependencies(
            service=service,
            watch=Watch(service),
            blobs=blobs,
            catalog=catalog,
            authenticator=authenticator,
            public_url=http.public_url,
            link_ttl_s=store.retention_s,
            tokens=Tokens(server_secret_named(database, tokens.SECRET_NAME, _random)),
            signer=Signer(server_secret_named(database, signing.SECRET_NAME, _random)),
            opened_addresses=OpenedAddresses.parse(allow_private),
        )
    finally:
        wakeups.close()


def _random() -> bytes:
    return secrets.token_bytes(32)


def as_variables(*components: BaseModel) -> dict[str, str]:
    """Settings as the RETOUCH_ variables that give the same settings; secrets stay out of the process list.

    A secret setting is a variable already and reaches the worker with the others.
    """
    words: dict[str, str] = {}
    for component in components:
        for name, value in component:
            if value is None or isinstance(value, SecretStr):
                continue
            words[PREFIX + name.upper()] = ",".join(value) if isinstance(value, tuple) else str(value)
    return words


class _Server(uvicorn.Server):
    """uvicorn, with a way to end it from another thread when no worker can ever start."""

    gave_up = False

    def __init__(self, app: ASGIApp) -> None:
        config = uvicorn.Config(
            app,
            http="httptools",
            loop="uvloop",
            ws="websockets-sansio",
            ws_max_size=MAX_BODY_BYTES,
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # `ForwardedHeaders` reads them, from the peers the operator names
            server_header=False,
            timeout_graceful_shutdown=OPEN_REQUESTS_S,
        )
        super().__init__(config)

    def give_up(self) -> None:
        self.gave_up = True
        self.should_exit = True

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's; it raises the signal that ended it once more, which must not skip what follows here."""
        signal.signal(signal.SIGTERM, lambda *_: None)
        with contextlib.suppress(KeyboardInterrupt):
            super().run(sockets)


# --- hosted providers


@dataclass(frozen=True, slots=True)
class Hosted:
    """What is built for edits that go to hosted providers. dispatch: for the service. routes: the file as it is now."""

    routes: LoadedRoutes
    dispatch: Dispatcher
    database: Database
    blobs: Blobs
    delivery: Delivery
    keys: UpstreamKeys
    caller_buckets: CallerBuckets

    def gateway(self, service: Service) -> Gateway:
        """The gateway of this process, not started yet."""
        parts = Parts(
            service=service,
            database=self.database,
            blobs=self.blobs,
            routes=self.routes,
            delivery=self.delivery,
            account_name=Keys(self.database).name_of,
            clock=utc_now,
            caller_buckets=self.caller_buckets,
        )
        return Gateway(f"gateway-{worker_name()}", parts, service.wakeups)

    def reload_on_hangup(self) -> None:
        """Read the file again at each SIGHUP, on a thread: a signal may not wait."""
        signal.signal(signal.SIGHUP, lambda *_: threading.Thread(target=self.routes.reload, name="reload").start())


@contextlib.contextmanager
def open_hosted(  # noqa: PLR0917 - what it is made of
    path: Path,
    http: HttpSettings,
    store: StoreSettings,
    network: NetworkSettings,
    database: Database,
    blobs: Blobs,
    catalog: Catalog,
) -> Iterator[Hosted]:
    """Load the file and have the catalogue lead by it. Raises InvalidSetting with line and reason."""
    keys = UpstreamKeys(database)
    routes = LoadedRoutes(
        path,
        blobs=blobs,
        keys=keys,
        public_url=http.public_url,
        allow_private=network.allow_private,
        results_ttl_s=store.retention_s,
    )
    try:
        routes.on_change(lambda file: file.lead(catalog))
        delivery = Delivery(blobs, Fetcher(network.allow_private))
        dispatch = Dispatcher(routes, database, delivery.sizes_of, utc_now)
        yield Hosted(routes, dispatch, database, blobs, delivery, keys, CallerBuckets(network.allow_private))
    finally:
        routes.close()


# --- https


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


def open_forward_proxy(http: HttpSettings, port: int) -> contextlib.AbstractContextManager[None]:
    """The forward proxy to this server; raises InvalidSetting without certificates for the names it leads here."""
    if http.tls != "auto":
        raise InvalidSetting("--forward-proxy needs --tls auto: clients speak https through it.")
    if port == http.port:
        raise InvalidSetting(f"--forward-proxy and --port are both {port}; the proxy needs a port of its own.")
    listener = listening_socket(http.host, port, "--forward-proxy")
    return forward_proxy(listener, (urlsplit(http.address).hostname or http.host, http.port))
