"""Metrics of the control plane for Prometheus.

Labels are bounded: no run ids, no free text.

Each app has a registry of its own, so that two apps in one process do not share counters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Gauge, Histogram, Metric
from prometheus_client import Counter as Count
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from pymongo.errors import PyMongoError

from pod_worker.core.payload import PAYLOADS
from pod_worker.store.queue.stats import QueueStats

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
UNKNOWN_TYPES = 100


class ControlPlaneMetrics:
    def __init__(self, depth: Callable[[], QueueStats]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_QueueGauges(depth))
        self._events = Count(
            "pod_worker_events", "Events by result and type", ["verdict", "type"], registry=self.registry
        )
        self._refused = Count(
            "pod_worker_events_refused", "Refused lines by reason", ["code"], registry=self.registry
        )
        self._unknown = Count(
            "pod_worker_events_unknown_type",
            "Events of ai.* types this version does not know",
            ["type"],
            registry=self.registry,
        )
        self.batch_seconds = Histogram(
            "pod_worker_ingest_batch_seconds",
            "Time to check and store what arrived together",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.projection_failures = Count(
            "pod_worker_projection_failures",
            "Writes that a view refused",
            registry=self.registry,
        )
        self.waiting_events = Gauge(
            "pod_worker_views_waiting_events", "Events stored and not yet in the views", registry=self.registry
        )
        self._unknown_seen: set[str] = set()

    def count_events(self, result: str, kinds: Iterable[str]) -> None:
        """Count events of these types with that result.

        The label keeps its name `verdict`.
        """
        for kind, times in Counter(kinds).items():
            is_known = kind in PAYLOADS
            self._events.labels(result, kind if is_known else "other").inc(times)
            if not is_known:
                self._unknown.labels(self._bounded_type(kind)).inc(times)

    def count_invalid(self, codes: Iterable[str]) -> None:
        for code, times in Counter(codes).items():
            self._events.labels("invalid", "").inc(times)
            self._refused.labels(code).inc(times)

    def _bounded_type(self, kind: str) -> str:
        if len(self._unknown_seen) < UNKNOWN_TYPES:
            self._unknown_seen.add(kind)
        return kind if kind in self._unknown_seen else "other"


class _QueueGauges(Collector):
    """Read at each scrape.

    While the database is unreachable these are absent, and `up` is 0.
    """

    def __init__(self, depth: Callable[[], QueueStats]) -> None:
        self._depth = depth

    def describe(self) -> list[Metric]:
        return []  # else registering would read the database

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("pod_worker_database_up", "1 while MongoDB answers")
        try:
            depth = self._depth()
        except PyMongoError:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield from _gauges(depth)


def _gauges(depth: QueueStats) -> Iterator[Metric]:
    runs = GaugeMetricFamily("pod_worker_runs", "Runs by queue and status", labels=["queue", "status"])
    for queue, statuses in depth.by_queue.items():
        for status, count in statuses.items():
            runs.add_metric([queue, status], count)
    oldest = GaugeMetricFamily(
        "pod_worker_oldest_queued_seconds", "Age of the oldest queued run", labels=["queue"]
    )
    for queue, seconds in depth.oldest_queued_seconds.items():
        oldest.add_metric([queue], seconds)
    yield runs
    yield oldest
    yield GaugeMetricFamily("pod_worker_leases_live", "Runs held by a worker", value=depth.leases_live)
    yield GaugeMetricFamily(
        "pod_worker_leases_expiring", "Leases that are over or nearly", value=depth.leases_expiring
    )
