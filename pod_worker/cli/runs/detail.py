"""What `runs show` prints: everything that is known about one run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from pod_worker.artifacts.keys import ArtifactKey, InvalidNameError
from pod_worker.cli.composition import StoreSession
from pod_worker.cli.document_values import as_datetime, as_mapping, as_number, as_text
from pod_worker.cli.output import (
    STATUS_STYLE,
    age,
    clock_time,
    is_terminal,
    number,
    percent,
    print_fields,
    print_table,
    say,
    size,
    span,
)
from pod_worker.cli.runs.duration import ended_at, took
from pod_worker.cli.runs.eligible_workers import describe_requirements
from pod_worker.cli.runs.lookup import ENDED_STATUSES, detail_json
from pod_worker.core.payload import PAYLOADS
from pod_worker.core.run import ACTIVE, DEFAULT_MAX_ATTEMPTS, Json, Run
from pod_worker.core.stage import stage_title
from pod_worker.store import artifact_registry
from pod_worker.store.artifact_registry import ArtifactRow
from pod_worker.store.events.reader import EventFilter, EventReader
from pod_worker.store.mongo import Document
from pod_worker.store.queue.run_document import run_from_document
from pod_worker.store.views.read_models import ReadModels

EVENTS_SHOWN = 10
_ARTIFACT_KEYS = {
    "run_id": "runId",
    "content_type": "contentType",
    "verified_at": "verifiedAt",
    "created_at": "createdAt",
}


def run_json(store: StoreSession, run: Document) -> Document:
    run_id = str(run["_id"])
    return {
        "run": detail_json(run),
        "stages": ReadModels(store.database).stages(run_id),
        "artifacts": [artifact_json(row) for row in artifact_registry.of_run(store.database, run_id)],
        "events": _last_events(store, run_id),
        "url": _page_url(store, run_id),
    }


def artifact_json(row: ArtifactRow) -> Document:
    """With the names that the API uses."""
    fields = {_ARTIFACT_KEYS.get(name, name): value for name, value in asdict(row).items()}
    return {"_id": fields["id"], **fields}


def print_artifacts(rows: list[ArtifactRow]) -> None:
    """Names on a terminal, keys and whole hashes in a pipe.

    `artifacts get RUN NAME` takes the names.
    """
    if not is_terminal():
        cells = [[row.key, row.kind, size(row.bytes or 0), row.role or "-", row.sha256 or "-"] for row in rows]
        print_table(["key", "kind", "size", "role", "sha256"], cells)
    elif rows:
        print_table(["name", "attempt", "kind", "size", "role", "sha256"], [_artifact_cells(row) for row in rows])


def _artifact_cells(row: ArtifactRow) -> list[str]:
    try:
        key = ArtifactKey.read(row.key)
        name, attempt = key.filename, str(key.attempt)
    except InvalidNameError:
        name, attempt = row.key, "-"
    return [name, attempt, row.kind, size(row.bytes or 0), row.role or "-", (row.sha256 or "-")[:12]]


def print_run(store: StoreSession, run: Document) -> None:
    run_id = str(run["_id"])
    status = str(run.get("status"))
    print_fields(_header(store, run), {"status": STATUS_STYLE.get(status, ""), "error": "red"})
    stages = ReadModels(store.database).stages(run_id)
    if stages:
        rows = [_stage_row(stage, is_active=status in ACTIVE) for stage in stages]
        print_table(["stage", "name", "status", "progress", "took"], rows, {"status": STATUS_STYLE})
    found = artifact_registry.of_run(store.database, run_id)
    if found:
        print_artifacts(found)
    # Without metrics, progress and log lines, of which a run has thousands.
    events = _last_events(store, run_id, [name for name, kind in PAYLOADS.items() if not kind.sample])
    if events:
        rows = [[clock_time(as_datetime(e.get("time"))), str(e.get("type")), event_summary(e)] for e in events]
        print_table(["time", "event", "content"], rows)
    if status != "COMPLETED":
        say(f"what to do: pod-worker runs why {run_id}")


def _last_events(store: StoreSession, run_id: str, types: Sequence[str] = ()) -> list[Document]:
    return EventReader(store.database).read_page(run_id, EventFilter(types), EVENTS_SHOWN).items[::-1]


def _page_url(store: StoreSession, run_id: str) -> str:
    from urllib.parse import quote

    return f"{store.settings.control_plane_url.rstrip('/')}/runs/{quote(run_id, safe='')}"


OPTIONAL_FIELDS = frozenset({
    "name", "stage", "requirements", "waits for", "time limits", "retried after", "labels",
    "unique key", "metrics",
})  # fmt: skip


def _header(store: StoreSession, run: Document) -> list[tuple[str, str]]:
    stage = as_mapping(run.get("currentStage"))
    fields = [
        ("run", str(run["_id"])),
        ("name", as_text(run.get("name")) or "-"),
        ("pipeline", str(run.get("pipeline", "-"))),
        ("queue", f"{run.get('queue', '-')}, priority {run.get('priority', 0)}"),
        ("status", str(run.get("status"))),
        ("attempt", _attempt(run)),
        ("worker", str(run.get("claimedBy") or "-")),
        ("created", _moment(run.get("createdAt"))),
        ("started", _moment(run.get("startedAt"))),
        ("ended", _moment(ended_at(run))),
        ("took", took(run) + _of_attempt(run)),
        ("stage", _current_stage(stage, run)),
        *_conditions(run_from_document(run)),
        ("labels", _pairs(run.get("labels"))),
        ("unique key", as_text(run.get("uniqueKey")) or "-"),
        ("parameters", _pairs(run.get("params"), "\n")),
        ("metrics", _pairs(run.get("metrics"), "\n")),
    ]
    fields = [(name, value) for name, value in fields if value != "-" or name not in OPTIONAL_FIELDS]
    if run.get("cancelRequestedAt"):
        by = as_text(run.get("cancelRequestedBy"))
        fields.append(("cancel", f"requested{f' by {by}' if by else ''} {_moment(run['cancelRequestedAt'])}"))
    if run.get("errorCode"):
        fields.append(("error", f"{run['errorCode']}: {run.get('errorMessage')}"))
    return [*fields, ("page", _page_url(store, str(run["_id"])))]


def _conditions(run: Run) -> list[tuple[str, str]]:
    """What a worker must have, what is waited for, how long and how often it runs."""
    times = ((run.max_queue_seconds, "to start"), (run.max_duration_seconds, "for an attempt"))
    limits = [f"{span(seconds)} {what}" for seconds, what in times if seconds]
    words = "-" if run.retry_on is None else ", ".join(run.retry_on) or "nothing"
    return [
        ("requirements", describe_requirements(run.requirements) or "-"),
        ("waits for", ", ".join(run.blocked_by) or "-"),
        ("time limits", ", ".join(limits) or "-"),
        ("retried after", words),
    ]


def _of_attempt(run: Document) -> str:
    attempt = as_number(run.get("attempt")) or 0
    return f" (attempt {attempt:.0f} alone)" if attempt > 1 and run.get("startedAt") else ""


def _attempt(run: Document) -> str:
    """All attempts that were begun, and how many failed since a person queued the run."""
    return (
        f"{run.get('attempt', 0)} (failed: {run.get('failedAttempts', 0)} of at most "
        f"{run.get('maxAttempts', DEFAULT_MAX_ATTEMPTS)})"
    )


def _moment(value: Json) -> str:
    moment = as_datetime(value)
    return f"{clock_time(moment)} ({age(moment)} ago)" if moment else "-"


def _current_stage(stage: Mapping[str, Json], run: Document) -> str:
    name = as_text(stage.get("name"))
    if name is None or run.get("status") in ENDED_STATUSES:
        return "-"
    progress, left = as_number(stage.get("progress")), as_number(stage.get("etaS"))
    parts = [
        stage_title(name),
        "" if progress is None else f"at {progress:.0%}",
        "" if left is None else f"about {span(left)} left",
    ]
    return ", ".join(filter(None, parts))


def _pairs(value: Json, separator: str = "  ") -> str:
    pairs = [f"{name}={_compact(each)}" for name, each in as_mapping(value).items() if each is not None]
    return separator.join(pairs) or "-"


def _compact(value: Json) -> str:
    return json.dumps(value, default=str, ensure_ascii=False) if isinstance(value, dict | list) else number(value)


def _stage_row(stage: Document, is_active: bool) -> list[str]:
    """The cells of a stage, which runs only while its run does.

    A stage whose process died stays RUNNING in the view, because no event says that it ended.
    """
    status = str(stage.get("status", "-"))
    is_running = status == "RUNNING" and is_active
    progress, took_seconds = as_number(stage.get("progress")), as_number(stage.get("durationS"))
    started = as_datetime(stage.get("startedAt"))
    if took_seconds is None and started and is_running:
        took_seconds = (datetime.now(UTC) - started).total_seconds()
    return [
        str(stage.get("title") or stage.get("name")),
        str(stage.get("name")),
        "INTERRUPTED" if status == "RUNNING" and not is_running else status,
        "-" if progress is None else percent(progress),
        "-" if took_seconds is None else span(took_seconds),
    ]


def event_summary(event: Document, limit: int = 120) -> str:
    hidden = ("run_id", "traceback", "kv")
    data = {name: value for name, value in as_mapping(event.get("data")).items() if name not in hidden}
    text = " ".join(f"{name}={_compact(value)}" for name, value in data.items())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
