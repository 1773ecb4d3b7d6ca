"""RQ."""

from __future__ import annotations

from redis import Redis  # type: ignore[import-not-found]
from rq import Queue, Retry  # type: ignore[import-not-found]

from benchmarks.peer_tasks import evidence

queue = Queue(connection=Redis.from_url(evidence.broker()))


def enqueue(key: str, seconds: float) -> None:
    more = {"retry": Retry(max=3)} if evidence.IS_BEST else {}
    queue.enqueue(evidence.work, key, seconds, job_timeout=3600, **more)
