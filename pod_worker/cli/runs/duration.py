"""When a run ended and how long it took, from its document."""

from __future__ import annotations

from datetime import datetime

from pod_worker.cli.document_values import as_datetime
from pod_worker.cli.output import age
from pod_worker.cli.runs.lookup import ENDED_STATUSES
from pod_worker.store.mongo import Document


def took(run: Document) -> str:
    """From the start of the last attempt to the end, or to now while it runs."""
    started = as_datetime(run.get("startedAt"))
    ended = ended_at(run)
    if started is None:
        return "-"
    if ended is None:
        return age(started) if run.get("status") not in ENDED_STATUSES | {"QUEUED"} else "-"
    return age(started, ended)


def ended_at(run: Document) -> datetime | None:
    names = ("completedAt", "failedAt", "canceledAt")
    return next((at for name in names if (at := as_datetime(run.get(name)))), None)
