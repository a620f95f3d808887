"""What `serve` builds for edits that go to hosted providers: the loaded routes, who decides, and who runs them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from retouch.accounts.keys import Keys
from retouch.accounts.upstream_keys import UpstreamKeys
from retouch.catalog import Catalog
from retouch.cli.worker_name import worker_name
from retouch.database import Database
from retouch.jobs.job import utc_now
from retouch.service import Service
from retouch.settings import HttpSettings, NetworkSettings, StoreSettings
from retouch.storage.blobs import Blobs
from retouch.storage.caller_bucket import CallerBuckets
from retouch.storage.fetch import Fetcher
from retouch.upstreams.choice import Dispatcher
from retouch.upstreams.delivery import Delivery
from retouch.upstreams.edit_run import Parts
from retouch.upstreams.gateway import Gateway
from retouch.upstreams.loaded_routes import LoadedRoutes


@dataclass(frozen=True, slots=True)
class Hosted:
    """dispatch: for the service. routes: the file as it is now."""

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


@contextmanager
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
