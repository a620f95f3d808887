"""What `/metrics` tells, in Prometheus' text form, read from the job table when it is asked for.

The table counts for every server and worker of one database, so it does not matter which server is asked.
Nothing is counted in this process.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from retouch.errors import Unavailable
from retouch.jobs.liveness import QueueStatistics
from retouch.service import Service


class Metrics:
    """A registry of its own, so that nothing of other libraries is shown."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self, service: Service) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_JobTable(service))

    def text(self) -> bytes:
        """The page. Reads the database; `retouch_up` is 0 when that is not possible."""
        return generate_latest(self._registry)


class _JobTable(Collector):
    def __init__(self, service: Service) -> None:
        self._service = service

    def describe(self) -> list[Metric]:
        """Nothing beforehand: registering must not read the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("retouch_up", "Whether the database answers.")
        try:
            statistics = self._service.statistics()
        except Unavailable:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield from _jobs(statistics)
        yield _workers(statistics)
        yield _seconds(statistics)
        yield from _safety(statistics)


def _jobs(statistics: QueueStatistics) -> Iterator[Metric]:
    now = GaugeMetricFamily("retouch_jobs", "Jobs that wait or run.", labels=["queue", "state"])
    ever = CounterMetricFamily("retouch_jobs_ended", "Jobs that have ended.", labels=["queue", "state"])
    for queue, counts in statistics.jobs.items():
        for state, count in counts.items():
            (ever if state.final else now).add_metric([queue, state.value], count)
    yield now
    yield ever


def _seconds(statistics: QueueStatistics) -> Metric:
    """A counter for each worker, so that a restart is a reset and not a fall."""
    seconds = CounterMetricFamily(
        "retouch_stage_seconds", "Time spent on finished jobs, by stage.", labels=["worker", "queue", "stage"]
    )
    for worker in statistics.workers:
        for stage, spent in worker.seconds.items():
            if stage not in ("inference", "safety"):  # the sum of three others; a metric of its own
                seconds.add_metric([worker.name, worker.queues[0], stage], spent)
    return seconds


def _safety(statistics: QueueStatistics) -> Iterator[Metric]:
    """What the checkers found: counts and time, never a score, a prompt or an image."""
    checks = CounterMetricFamily(
        "retouch_safety_checks", "Safety checks, by what was checked and found.", labels=["worker", "stage", "verdict"]
    )
    seconds = CounterMetricFamily("retouch_safety_seconds", "Time spent on safety checks.", labels=["worker"])
    for worker in statistics.workers:
        for name, count in worker.checks.items():
            stage, _, verdict = name.partition(" ")
            checks.add_metric([worker.name, stage, verdict], count)
        seconds.add_metric([worker.name], worker.seconds.get("safety", 0.0))
    yield checks
    yield seconds


def _workers(statistics: QueueStatistics) -> Metric:
    workers = GaugeMetricFamily(
        "retouch_worker_up", "Workers heard of lately.", labels=["worker", "queue", "device", "state"]
    )
    for worker in statistics.workers:
        for queue in worker.queues:
            workers.add_metric([worker.name, queue, worker.device, worker.state], 1)
    return workers
