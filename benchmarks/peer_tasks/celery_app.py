"""Celery on Redis."""

from __future__ import annotations

from celery import Celery  # type: ignore[import-not-found]

from benchmarks.peer_tasks import evidence

app = Celery("peer", broker=evidence.broker())
app.conf.task_ignore_result = True
if evidence.IS_BEST:
    # A visibility timeout this short is only for tasks that are shorter still: longer ones run twice.
    app.conf.task_acks_late = True
    app.conf.task_reject_on_worker_lost = True
    app.conf.worker_prefetch_multiplier = 1
    app.conf.broker_transport_options = {"visibility_timeout": 10}


@app.task  # type: ignore[untyped-decorator]
def work(key: str, seconds: float) -> None:
    evidence.work(key, seconds)


def enqueue(key: str, seconds: float) -> None:
    work.delay(key, seconds)
