"""What the control plane counts about itself, for Prometheus. Labels are bounded; no run ids, no free text.

Each app has a registry of its own, so that two in one process do not meet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client import Counter as Count

from pod_worker.core.payload import PAYLOADS

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
UNKNOWN_TYPES = 100


class Telemetry:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._events = Count(
            "pod_worker_events", "Events by verdict and type", ["verdict", "type"], registry=self.registry
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
            "Time to check, store and project a batch",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.projection_failures = Count(
            "pod_worker_projection_failures", "Batches stored but not projected", registry=self.registry
        )
        self._unknown_seen: set[str] = set()

    def count(self, events: Iterable[tuple[str, bool, str]], refused: Iterable[str]) -> None:
        """(type, is known, verdict) of each event, and the code of each refusal."""
        for (kind, is_known, verdict), times in Counter(events).items():
            self._events.labels(verdict, kind if kind in PAYLOADS else "other").inc(times)
            if not is_known:
                self._unknown.labels(self._bounded(kind)).inc(times)
        for code, times in Counter(refused).items():
            self._events.labels("invalid", "").inc(times)
            self._refused.labels(code).inc(times)

    def _bounded(self, kind: str) -> str:
        if len(self._unknown_seen) < UNKNOWN_TYPES:
            self._unknown_seen.add(kind)
        return kind if kind in self._unknown_seen else "other"
