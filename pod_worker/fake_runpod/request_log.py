"""What the server received: requests by route, and the telemetry of pods.

Ids in routes are replaced by `{id}`, so the number of counters stays small. The request log holds no bodies, no
headers and no keys.
"""

from __future__ import annotations

from collections import Counter, deque

from pod_worker.core.run import Json
from pod_worker.fake_runpod import timestamps

KEEP_REQUESTS = 500
KEEP_COUNTS = 500
KEEP_TELEMETRY = 5000
OTHER = "other"


class RequestLog:
    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, int]] = Counter()
        self._recent: deque[tuple[str, str, int]] = deque(maxlen=KEEP_REQUESTS)

    def record(self, method: str, path: str, ids: tuple[str, ...], status: int) -> None:
        """`ids`: the parts of the path that the route knew as ids."""
        route = "/".join("{id}" if part in ids else part for part in path.split("/"))
        entry = (method, route, status)
        if entry not in self._counts and len(self._counts) >= KEEP_COUNTS:
            # Paths that callers invent must not make the counters grow without bound.
            entry = (method, OTHER, status)
        self._counts[entry] += 1
        self._recent.append((method, path, status))

    def clear(self) -> None:
        self._counts.clear()
        self._recent.clear()

    def view(self) -> dict[str, Json]:
        counts = [{"method": m, "route": r, "status": s, "count": n} for (m, r, s), n in self._counts.items()]
        recent = [{"method": m, "path": p, "status": s} for m, p, s in self._recent]
        return {"total": self._counts.total(), "counts": counts, "recent": recent}


class TelemetryLog:
    def __init__(self) -> None:
        self.entries: deque[dict[str, Json]] = deque(maxlen=KEEP_TELEMETRY)

    def record(self, kind: str, body: Json, received_ns: int) -> None:
        self.entries.append({"kind": kind, "received_at": timestamps.rfc3339(received_ns), "payload": body})
