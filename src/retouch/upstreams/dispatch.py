"""Where an edit goes when it is submitted: to a worker here, or to the queue of the gateway.

Which upstream it will be is decided when its turn has come, with the same rules; here only what no target takes is
refused, before anything is stored or sent.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from math import inf

from retouch.accounts.keys import Account
from retouch.catalog.normalised import ImageSizes
from retouch.database import Database
from retouch.edit import EditRequest
from retouch.errors import InvalidRequest, UnknownModel
from retouch.jobs import breakers
from retouch.jobs.breakers import BreakerState
from retouch.upstreams.choice import Circumstances, Plan, plan
from retouch.upstreams.routes import Routes


def circumstances(  # noqa: PLR0917 - what a choice depends on
    routes: Routes,
    database: Database,
    account: tuple[str, str],
    request: EditRequest,
    sizes: ImageSizes,
    now: datetime,
    local_wait_s: float | None = None,
) -> Circumstances:
    """What is known just now of the targets of the route that fits. account: its id and its name."""
    account_id, name = account
    rule = routes.rule_for(name, request)
    targets = [] if rule is None else [target for target in rule.targets if not target.local]
    connections = {target.name: routes.connect(target.upstream, account_id) for target in targets}
    keys = {(target, each.fingerprint) for target, each in connections.items() if each is not None}
    with database.read() as connection:
        rows = breakers.read(connection, keys)
    opened = {row.target: row.opened_at.timestamp() for row in rows.values() if row.state(now) is BreakerState.OPEN}
    without_key = {target.upstream for target in targets if connections[target.name] is None}
    return Circumstances(name, local_wait_s, opened, without_key, sizes)


class Dispatcher:
    """`service.Dispatch` by the routes file as it is at the moment."""

    def __init__(
        self,
        routes: Callable[[], Routes],
        database: Database,
        sizes_of: Callable[[EditRequest], ImageSizes],
        clock: Callable[[], datetime],
    ) -> None:
        self._routes = routes
        self._database = database
        self._sizes_of = sizes_of
        self._clock = clock

    def __call__(self, account: Account, request: EditRequest, local_wait_s: Callable[[], float] | None) -> bool:
        wait_s, here = None, None
        if local_wait_s is not None:
            try:
                wait_s = local_wait_s()
            except InvalidRequest as error:  # not here; perhaps elsewhere
                here = error
        chosen = self._plan(account, request, None if wait_s == inf else wait_s)
        targets = [target for target in chosen.targets if not (target.local and (here or local_wait_s is None))]
        if not targets:
            if here is not None:
                raise here
            reasons = " ".join(f"{name}: {reason}" for name, reason in chosen.left_out.items())
            raise InvalidRequest(f"No target of '{request.model}' takes this edit. {reasons}".strip(), field="model")
        return not targets[0].local

    def _plan(self, account: Account, request: EditRequest, wait_s: float | None) -> Plan:
        routes, sizes = self._routes(), self._sizes_of(request)
        if not any(routes.leads(request.model)):
            raise UnknownModel(f"No route of this server is for the model '{request.model}'.", field="model")
        known = circumstances(routes, self._database, (account.id, account.name), request, sizes, self._clock(), wait_s)
        chosen = plan(routes, request, known)
        if chosen is None:
            raise InvalidRequest(f"No route of '{request.model}' fits this edit.", field="model")
        return chosen
