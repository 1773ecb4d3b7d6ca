"""`runs why`: the state of a run in words — why it waits, who has it, why it ended, and what to do about it."""

from __future__ import annotations

from datetime import UTC, datetime

from pod_worker.cli.composition import StoreSession
from pod_worker.cli.output import age, clock_time, span
from pod_worker.core.failure import FAILURE_POLICIES, FailureCode
from pod_worker.core.run import Json, Run, RunStatus
from pod_worker.pipelines import MODES, PIPELINES
from pod_worker.store.mongo import Document
from pod_worker.store.queue.run_document import run_from_document
from pod_worker.store.worker_registry import WorkerRecord, WorkerRegistry

GONE_SECONDS = 180.0


def explain(store: StoreSession, document: Document) -> list[str]:
    """Lines of plain text, the most important first."""
    run = run_from_document(document)
    now = store.database.command("hello")["localTime"].replace(tzinfo=UTC)
    workers = WorkerRegistry(store.database).list()
    if run.status is RunStatus.QUEUED:
        ahead = _runs_ahead(store, run)
        return _queued(run, document, now, workers, store.queue().paused(), ahead)
    if run.status in (RunStatus.SCHEDULED, RunStatus.RUNNING, RunStatus.AUTO_VALIDATING):
        return _active(run, document, now) + _history(document)
    return _ended(run, document) + _history(document)


def _runs_ahead(store: StoreSession, run: Run) -> int:
    if run.queued_at is None:
        return 0
    before: Document = {
        "status": "QUEUED",
        "queue": run.queue,
        "$or": [
            {"priority": {"$gt": run.priority}},
            {"priority": run.priority, "queuedAt": {"$lt": run.queued_at}},
        ],
    }
    return store.database.runs.count_documents(before, limit=1000)


def _queued(
    run: Run, document: Document, now: datetime, workers: list[WorkerRecord], paused: frozenset[str], ahead: int
) -> list[str]:
    lines = [f"It waits in queue {run.queue!r} since {age(run.queued_at, now)} (priority {run.priority})."]
    if run.pipeline not in PIPELINES:
        lines.append(f"No worker of this version knows the pipeline {run.pipeline!r}: nobody will claim it.")
    if run.queue in paused:
        lines.append(f"The queue is paused. Resume it: pod-worker queues resume {run.queue}")
    if document.get("hidden"):
        lines.append("It is hidden, and hidden runs are not claimed.")
    if run.run_after and run.run_after > now:
        lines.append(
            f"It may start again in {span((run.run_after - now).total_seconds())} (waiting after a failure)."
        )
    if run.error_code:
        lines.append(f"Its last attempt ended with {run.error_code}: {run.error_message}")
    lines += _needs(run)
    lines.append(
        f"{ahead} run{'s are' if ahead != 1 else ' is'} ahead of it." if ahead else "It is the next in line."
    )
    return lines + _eligible_workers(run, now, workers)


def _needs(run: Run) -> list[str]:
    needs = run.requirements
    wants = [f"GPU {needs.gpu}"] if needs.gpu else []
    wants += [f"at least {needs.min_vram_gb:g} GB of GPU memory"] if needs.min_vram_gb else []
    wants += [f"region {needs.region}"] if needs.region else []
    return [f"It needs a pod with {', '.join(wants)}."] if wants else []


def _eligible_workers(run: Run, now: datetime, workers: list[WorkerRecord]) -> list[str]:
    serving = [mode for mode, queues in MODES.items() if run.queue in queues]
    alive = [
        w
        for w in workers
        if w.last_seen and (now - w.last_seen).total_seconds() < GONE_SECONDS and w.state != "stopped"
    ]
    able = [w for w in alive if w.mode in serving]
    refusing = [w for w in able if w.state == "refusing"]
    if not able:
        mode = serving[0] if serving else "all"
        others = f" ({len(alive)} there, in modes {', '.join(sorted({w.mode for w in alive}))})" if alive else ""
        return [f"No worker that serves this queue is there{others}. Start one: pod-worker worker --mode {mode}"]
    lines = [f"{len(able)} worker(s) serve this queue, {sum(w.state == 'idle' for w in able)} of them idle."]
    return lines + [f"{w.worker_id} refuses to work: {w.reason}" for w in refusing]


def _active(run: Run, document: Document, now: datetime) -> list[str]:
    since = age(_date(document.get("claimedAt")), now)
    lines = [f"Worker {run.claimed_by} has it (attempt {run.attempt}, claimed {since} ago)."]
    stage = document.get("currentStage")
    if isinstance(stage, dict):
        progress = stage.get("progress")
        shown = f" at {progress:.0%}" if isinstance(progress, int | float) else ""
        lines.append(f"It is in stage {stage.get('name')}{shown}.")
    left = (run.lease_expires_at - now).total_seconds() if run.lease_expires_at else None
    if left is None:
        lines.append(
            "It has no lease: a foreign worker holds it, and nobody can tell whether that one is alive. If it is "
            f"not: pod-worker runs reset {run.id}"
        )
    elif left > 0:
        lines.append(f"Its lease ends in {span(left)} unless it is renewed; a living worker renews well before.")
    else:
        lines.append(
            f"Its lease is over since {span(-left)}: its worker is dead or cut off. Any control plane or idle "
            "worker rescues it within seconds."
        )
    heartbeat = _date(document.get("lastHeartbeat"))
    if heartbeat:
        lines.append(f"Its last heartbeat arrived {age(heartbeat, now)} ago.")
    if run.cancel_requested_at:
        lines.append(
            f"Somebody asked to cancel it {age(run.cancel_requested_at, now)} ago; its worker will confirm."
        )
    return lines


def _ended(run: Run, document: Document) -> list[str]:
    if run.status is RunStatus.COMPLETED:
        return [f"It completed at {clock_time(_date(document.get('completedAt')))}, in attempt {run.attempt}."]
    if run.status is RunStatus.CANCELED:
        return ["It was canceled. Queue it again: pod-worker runs reset " + run.id]
    if run.status is not RunStatus.FAILED:
        return [f"It is {run.status}."]
    stage = document.get("errorStage")
    lines = [f"It failed{f' in stage {stage}' if stage else ''} with {run.error_code}: {run.error_message}"]
    if run.error_code and run.error_code in FailureCode.__members__:
        lines.append(FAILURE_POLICIES[FailureCode(run.error_code)].hint)
    done = [name for name, checkpoint in run.checkpoints.items() if checkpoint.done]
    kept = f"; it goes on after {', '.join(done)}" if done else ""
    return [*lines, f"Queue it again: pod-worker runs reset {run.id}{kept}"]


def _history(document: Document) -> list[str]:
    entries = document.get("history")
    if not isinstance(entries, list) or not entries:
        return []
    return ["What happened:"] + [f"  {_line(entry)}" for entry in entries[-12:] if isinstance(entry, dict)]


def _line(entry: dict[str, Json]) -> str:
    by = f" by {entry['by']}" if entry.get("by") else ""
    detail = f": {entry['detail']}" if entry.get("detail") else ""
    return (
        f"{clock_time(_date(entry.get('at')))}  {entry.get('what')}{by} (attempt {entry.get('attempt')}){detail}"
    )


def _date(value: Json) -> datetime | None:
    return value if isinstance(value, datetime) else None
