"""Dramatiq on Redis."""

from __future__ import annotations

from typing import Any

import dramatiq  # type: ignore[import-not-found]
from dramatiq.brokers.redis import RedisBroker  # type: ignore[import-not-found]

from benchmarks.peer_tasks import evidence

# As shipped, a worker is dead after 60 s without a sign, which one command in a thousand looks for.
best: dict[str, Any] = {"heartbeat_timeout": 5_000, "maintenance_chance": 100_000}
dramatiq.set_broker(RedisBroker(url=evidence.broker(), **(best if evidence.IS_BEST else {})))


@dramatiq.actor(time_limit=3_600_000)  # type: ignore[untyped-decorator]
def work(key: str, seconds: float) -> None:
    evidence.work(key, seconds)


def enqueue(key: str, seconds: float) -> None:
    work.send(key, seconds)
