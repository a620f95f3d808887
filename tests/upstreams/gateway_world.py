"""A gateway before stub providers: the real service, runner and upstreams, on either database.

    world = GatewayWorld(tmp_path, database_url, "fal", "openai")
    with world.gateway():
        job = world.finished(world.edit().id)

Targets are named as the stubs were given: the first is asked first. Pauses between polls are short.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import select

from retouch.accounts.keys import Account, Keys
from retouch.catalog import Catalog, model_named
from retouch.catalog.normaliser import Normaliser
from retouch.catalog.profiles import Sheet, hosted
from retouch.jobs import breakers
from retouch.jobs.attempts import Attempt, AttemptState, of_job
from retouch.jobs.breakers import Breaker
from retouch.jobs.job import Job
from retouch.jobs.tables import attempt
from retouch.service import Service
from retouch.storage.fetch import Fetcher
from retouch.upstreams.delivery import Delivery
from retouch.upstreams.edit_run import Parts
from retouch.upstreams.gateway import Gateway, GatewayTimes
from retouch.upstreams.options import UpstreamOptions
from retouch.upstreams.registry import open_upstream
from retouch.upstreams.routes import LOCAL_TARGET, Connection, Dispatcher, GatewaySettings, RouteRule, Routes, Target
from retouch.upstreams.upstream import Upstream
from tests.harness import ANNE, Deployment, HandClock
from tests.upstreams.stubs.dashscope import DashScopeStub
from tests.upstreams.stubs.fal import FalStub
from tests.upstreams.stubs.openai import OpenAIStub
from tests.upstreams.stubs.replicate import ReplicateStub
from tests.upstreams.stubs.runpod import RunPodStub
from tests.upstreams.stubs.server import PRICE_MICROUSD, StubProvider

KEY = "sk-a-very-secret-key-0123456789"
STUBS: Mapping[str, type[StubProvider]] = {
    "fal": FalStub,
    "runpod": RunPodStub,
    "replicate": ReplicateStub,
    "dashscope": DashScopeStub,
    "openai": OpenAIStub,
    "lumenfall": OpenAIStub,
    "vllm-omni": OpenAIStub,
}
ENDPOINTS = {
    "fal": "fal-ai/qwen-image-edit-plus",
    "runpod": "qwen-image-edit-2511",
    "replicate": "qwen/qwen-image-edit-plus",
    "dashscope": "qwen-image-edit-plus",
    "openai": "gpt-image-1",
    "lumenfall": "qwen-image-edit",
    "vllm-omni": "qwen-image-edit",
}
TIMES = GatewayTimes(lease_s=5.0, poll_s=0.2, round_s=0.05, beat_s=1.0, stop_s=3.0, outage_pause_s=0.1)
MODEL = "qwen-image-edit-plus"


@dataclass
class Provider:
    """A stub, and how it is reached. name: of the upstream; kind: of the protocol."""

    name: str
    kind: str
    stub: StubProvider
    upstream: Upstream
    target: Target


def provider(
    world: Deployment, name: str, stub: StubProvider | None = None, *, answer_s: float = 3.0, **traits: Any
) -> Provider:
    """name: a kind, or `kind:number` for one of several. traits: what is otherwise than the kind has it."""
    kind = name.partition(":")[0]
    stub = stub or STUBS[kind]()
    options = UpstreamOptions(
        world.blobs, lambda scheme: f"{scheme} {KEY}", stub.base_url, pauses_s=(0.01, 0.02), answer_s=answer_s
    )
    upstream = open_upstream(kind, options)
    quick = {"poll_s": 0.01, "poll_cap_s": 0.05, "polls_per_second": 5000.0, **traits}
    upstream.traits = replace(upstream.traits, **quick)
    endpoint = ENDPOINTS[kind]
    profile = hosted().profile(kind, endpoint)
    assert profile is not None
    target = Target(
        f"{name}/{endpoint}", name, endpoint, Normaliser(profile, endpoint), Sheet(per_image_microusd=PRICE_MICROUSD)
    )
    return Provider(name, kind, stub, upstream, target)


class GatewayWorld(Deployment):
    """names: of the providers, in the order they are asked; `local` is our own queue. settings: of the gateway."""

    def __init__(
        self,
        folder: Path,
        database_url: str = "",
        *names: str,
        settings: GatewaySettings | None = None,
        clock: HandClock | None = None,
        traits: Mapping[str, Any] | None = None,
        providers: Mapping[str, StubProvider] | None = None,
        rule: Mapping[str, Any] | None = None,
        answer_s: float = 3.0,
        overflow_after_s: float | None = None,
    ) -> None:
        super().__init__(folder, database_url, clock=clock, uploads=True)
        stubs = providers or {}
        self.providers = {
            name: provider(self, name, stubs.get(name), answer_s=answer_s, **(traits or {}))
            for name in names
            if name != "local"
        }
        self.connections: dict[str, Connection] = {
            name: Connection(each.upstream, f"key-{name}"[:8]) for name, each in self.providers.items()
        }
        local = replace(LOCAL_TARGET, overflow_after_s=overflow_after_s)
        targets = tuple(local if name == "local" else self.providers[name].target for name in names)
        model = model_named(MODEL)
        assert model is not None
        self.routes = Routes(
            (RouteRule("*", targets, **(rule or {})),),
            lambda name, _account: self.connections.get(name),
            settings or GatewaySettings(deadline_s=20.0),
            {f"{name}/{MODEL}": replace(each.target) for name, each in self.providers.items()},
        )
        self.delivery = Delivery(self.blobs, Fetcher(("127.0.0.1",)))
        dispatch = Dispatcher(lambda: self.routes, self.database, self.delivery.sizes_of, self.clock)
        self.catalog = Catalog.serving(self.checkpoint)
        self.catalog.lead(self.routes.leads, dict.fromkeys(self.routes.forced, model))
        self.service = Service(
            self.database, self.blobs, self.catalog, self.wakeups, None, self.clock, dispatch=dispatch
        )

    def close(self) -> None:
        for each in self.providers.values():
            each.upstream.close()
            each.stub.close()
        super().close()

    def stub(self, name: str) -> Any:
        return self.providers[name].stub

    def submits(self, name: str) -> int:
        return len(self.stub(name).at("submit"))

    def parts(self) -> Parts:
        return Parts(
            service=self.service,
            database=self.database,
            blobs=self.blobs,
            routes=lambda: self.routes,
            delivery=self.delivery,
            account_name=Keys(self.database).name_of,
            clock=self.clock,
        )

    def new_gateway(self, name: str = "gateway-a", times: GatewayTimes = TIMES) -> Gateway:
        return Gateway(name, self.parts(), self.wakeups, times)

    @contextlib.contextmanager
    def gateway(self, name: str = "gateway-a", times: GatewayTimes = TIMES) -> Iterator[Gateway]:
        running = self.new_gateway(name, times)
        running.start()
        try:
            yield running
        finally:
            running.stop()

    def edit(self, account: Account = ANNE, **named: Any) -> Job:
        return self.submit(account, **{"model": MODEL, "acceleration": None, **named})

    def attempts(self, job_id: str) -> list[Attempt]:
        with self.database.read() as connection:
            return list(of_job(connection, job_id))

    def all_attempts(self) -> list[Attempt]:
        with self.database.read() as connection:
            ids = connection.execute(select(attempt.c.job_id).distinct()).scalars().all()
            return [each for job_id in ids for each in of_job(connection, job_id)]

    def states(self, job_id: str) -> list[AttemptState]:
        return [each.state for each in self.attempts(job_id)]

    def breakers(self) -> tuple[Breaker, ...]:
        with self.database.read() as connection:
            return breakers.read_all(connection)

    def bill(self) -> int:
        """What the stubs say is owed, in millionths of a dollar."""
        return sum(sum(each.stub.bill.values()) for each in self.providers.values())


def code_of(job: Job) -> str:
    assert job.failure is not None, job
    return job.failure.code


MakeWorld = Callable[..., GatewayWorld]
"""Takes what GatewayWorld takes after its folder and database."""
