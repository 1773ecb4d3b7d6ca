"""What was asked of the server: counts by route and the last few requests, for tests to look at.

Ids are replaced by `{id}`, so that the counts stay few however many pods come and go. Holds no bodies, no headers
and no keys.
"""

from __future__ import annotations

from collections import Counter, deque

from pod_worker.core.run import Json

KEEP = 500
KEEP_COUNTS = 500
OTHER = "other"


class RequestLog:
    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, int]] = Counter()
        self._recent: deque[tuple[str, str, int]] = deque(maxlen=KEEP)

    def record(self, method: str, path: str, ids: tuple[str, ...], status: int) -> None:
        """`ids`: the parts of the path that the route knew as ids."""
        route = "/".join("{id}" if part in ids else part for part in path.split("/"))
        entry = (method, route, status)
        if entry not in self._counts and len(self._counts) >= KEEP_COUNTS:
            # Nothing that callers invent may make the counts grow for ever.
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
