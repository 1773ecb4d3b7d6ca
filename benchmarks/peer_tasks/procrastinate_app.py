"""Procrastinate on PostgreSQL. The rescue of stalled jobs is its manual's recipe; without it there is none."""

from __future__ import annotations

from typing import Any

from procrastinate import App, PsycopgConnector  # type: ignore[import-not-found]

from benchmarks.peer_tasks import evidence

best = {"update_heartbeat_interval": 1.0, "stalled_worker_timeout": 5.0} if evidence.IS_BEST else {}
app = App(connector=PsycopgConnector(conninfo=evidence.broker()), worker_defaults=best)
_is_open = False


@app.task(name="work")  # type: ignore[untyped-decorator]
def work(key: str, seconds: float) -> None:
    evidence.work(key, seconds)


if evidence.IS_BEST:

    @app.periodic(cron="*/2 * * * * *")  # type: ignore[untyped-decorator]
    @app.task(queueing_lock="rescue", pass_context=True)  # type: ignore[untyped-decorator]
    async def rescue(context: Any, timestamp: int) -> None:
        for job in await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=5):
            await app.job_manager.retry_job(job)


def enqueue(key: str, seconds: float) -> None:
    global _is_open
    if not _is_open:
        app.open()
        _is_open = True
    work.defer(key=key, seconds=seconds)
