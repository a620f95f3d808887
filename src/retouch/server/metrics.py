"""What `/metrics` tells, in Prometheus' text form, read from the job table when it is asked for.

The table counts for every server and worker of one database, so it does not matter which server is asked.
Nothing is counted in this process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from retouch.accounts.ledger import KeyUsage
from retouch.catalog import Catalog
from retouch.errors import Unavailable
from retouch.jobs.liveness import QueueStatistics
from retouch.service import HostedStatistics, Service


class Metrics:
    """A registry of its own, so that nothing of other libraries is shown."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self, service: Service, catalog: Catalog) -> None:
        self._jobs, self._usage = CollectorRegistry(), CollectorRegistry()
        self._jobs.register(_JobTable(service, catalog))
        self._usage.register(_UsageTable(service))

    def text(self, *, operator: bool = False) -> bytes:
        """The page. Reads the database; `retouch_up` is 0 when that is not possible.

        operator: what each key has used is on it as well, which other callers may not see.
        """
        page = generate_latest(self._jobs)
        return page + generate_latest(self._usage) if operator else page


class _JobTable(Collector):
    def __init__(self, service: Service, catalog: Catalog) -> None:
        self._service = service
        self._catalog = catalog

    def describe(self) -> list[Metric]:
        """Nothing beforehand: registering must not read the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("retouch_up", "Whether the database answers.")
        try:
            statistics, hosted = self._service.statistics(), self._service.hosted()
        except Unavailable:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        routes = GaugeMetricFamily("retouch_route", "Which queue serves a model id.", labels=["model", "queue"])
        for route in self._catalog.routes:
            routes.add_metric([route.model.id, route.queue], 1)
        yield routes
        yield from _jobs(statistics)
        yield from _workers(statistics)
        yield from _hosted(hosted)


def _hosted(statistics: HostedStatistics) -> Iterator[Metric]:
    """Of settled attempts only: what a job under way will have cost is not known yet."""
    attempts = CounterMetricFamily(
        "retouch_upstream_attempts", "Submits to hosted providers, by how they ended.", labels=["target", "outcome"]
    )
    cost = CounterMetricFamily("retouch_upstream_cost_usd", "What hosted providers are owed.", labels=["target"])
    owed: dict[str, int] = {}
    for target, state, count, charge in statistics.attempts:
        attempts.add_metric([target, state], count)
        owed[target] = owed.get(target, 0) + charge
    for target, charge in owed.items():
        cost.add_metric([target], charge / 1e6)
    breakers = GaugeMetricFamily(
        "retouch_upstream_breaker", "Targets and whether they are left alone.", labels=["target", "key", "state"]
    )
    for row in statistics.breakers:
        breakers.add_metric([row.target, row.key, row.state(statistics.now).value], 1)
    yield from (attempts, cost, breakers)


class _UsageTable(Collector):
    """By the names of the keys; how many there are at the most is the ledger's matter."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        try:
            used = self._service.usage_by_key()
        except Unavailable:
            return
        for name, text, value in _USAGE:
            metric = CounterMetricFamily(f"retouch_usage_{name}", text, labels=["key"])
            for each in used:
                metric.add_metric([each.name], value(each))
            yield metric


_USAGE: tuple[tuple[str, str, Callable[[KeyUsage], float]], ...] = (
    ("edits", "Edits that succeeded, by key.", lambda used: used.jobs),
    ("images", "Images they made.", lambda used: used.images),
    ("device_seconds", "Time of the device they took.", lambda used: used.device_ms / 1000),
    ("dollars", "What they cost by the price list, in US dollars.", lambda used: used.price_microusd / 1e6),
)


def _jobs(statistics: QueueStatistics) -> Iterator[Metric]:
    now = GaugeMetricFamily("retouch_jobs", "Jobs that wait or run.", labels=["queue", "state"])
    ever = CounterMetricFamily("retouch_jobs_ended", "Jobs that have ended.", labels=["queue", "state"])
    for queue, counts in statistics.jobs.items():
        for state, count in counts.items():
            (ever if state.final else now).add_metric([queue, state.value], count)
    wait = SummaryMetricFamily("retouch_job_wait_seconds", "From submit to start, of succeeded jobs.", labels=["queue"])
    run = SummaryMetricFamily("retouch_job_run_seconds", "From start to end, of succeeded jobs.", labels=["queue"])
    for queue, times in statistics.times.items():
        wait.add_metric([queue], times.jobs, times.wait_s)
        run.add_metric([queue], times.jobs, times.run_s)
    yield from (now, ever, wait, run)


_DEVICE = {"device busy": "busy", "device waited": "waited"}
"""A worker's names for what became of its device's time."""


def _workers(statistics: QueueStatistics) -> Iterator[Metric]:
    """What each worker tells of itself. Its counters have its name, so that a restart is a reset and not a fall."""
    up = GaugeMetricFamily(
        "retouch_worker_up", "Workers heard of lately.", labels=["worker", "queue", "device", "state"]
    )
    facts = InfoMetricFamily(
        "retouch_worker", "The device of a worker, and how its model was loaded.", labels=["worker", "queue"]
    )
    stages = CounterMetricFamily(
        "retouch_stage_seconds", "Time spent on finished jobs, by stage.", labels=["worker", "queue", "stage"]
    )
    device = CounterMetricFamily(  # the two do not add up to the clock: the rest of the time there was no edit
        "retouch_device_seconds",
        "Time of the device: busy with edits, or waited, idle while an edit was fetched and decoded for it.",
        labels=["worker", "queue", "state"],
    )
    checks = CounterMetricFamily(  # counts and time, never a score, a prompt or an image
        "retouch_safety_checks", "Safety checks, by what was checked and found.", labels=["worker", "stage", "verdict"]
    )
    checking = CounterMetricFamily("retouch_safety_seconds", "Time spent on safety checks.", labels=["worker"])
    for worker in statistics.workers:
        queue = worker.queues[0]
        for each in worker.queues:
            up.add_metric([worker.name, each, worker.device, worker.state], 1)
        if worker.facts:  # its model is loaded
            facts.add_metric([worker.name, queue], dict(worker.facts))
        for stage, spent in worker.seconds.items():
            if stage not in ("inference", "safety", *_DEVICE):  # the sum of three others; metrics of their own
                stages.add_metric([worker.name, queue, stage], spent)
        for name, state in _DEVICE.items():
            device.add_metric([worker.name, queue, state], worker.seconds.get(name, 0.0))
        for name, count in worker.checks.items():
            stage, _, verdict = name.partition(" ")
            checks.add_metric([worker.name, stage, verdict], count)
        checking.add_metric([worker.name], worker.seconds.get("safety", 0.0))
    yield from (up, facts, stages, device, checks, checking)
