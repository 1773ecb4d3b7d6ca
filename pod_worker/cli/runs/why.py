"""`runs why`: why a run waits, who has it, why it ended, and what to do."""

from __future__ import annotations

from datetime import datetime

from pod_worker.cli.composition import StoreSession
from pod_worker.cli.document_values import as_datetime, as_mapping, as_number, as_text
from pod_worker.cli.output import age, clock_time, span
from pod_worker.cli.runs.eligible_workers import explain_workers
from pod_worker.core.failure import FAILURE_POLICIES, FailureClass, known_failure
from pod_worker.core.retry import failure_hint
from pod_worker.core.run import AfterFailure, Json, Run, RunStatus
from pod_worker.core.stage import stage_title
from pod_worker.pipelines import PIPELINES
from pod_worker.store.mongo import Document, server_time
from pod_worker.store.queue.run_document import run_from_document
from pod_worker.store.queue.waiting import count_runs_ahead
from pod_worker.store.worker_registry import WorkerRecord, WorkerRegistry

HISTORY_SHOWN = 12
# The same parameters would fail in the same way.
_INPUT_CODES = {
    code.value for code, policy in FAILURE_POLICIES.items() if policy.failure_class is FailureClass.USER
}


def explain(store: StoreSession, document: Document) -> list[str]:
    """Lines of plain text, the most important first."""
    run = run_from_document(document)
    now = server_time(store.database)
    if run.status is RunStatus.QUEUED:
        workers = WorkerRegistry(store.database).list()
        ahead = count_runs_ahead(store.database, run)
        return _queued(run, document, now, workers, store.queue().paused(), ahead)
    if run.status in (RunStatus.SCHEDULED, RunStatus.RUNNING, RunStatus.AUTO_VALIDATING):
        return _active(run, document, now) + _history(document)
    return _ended(run, document) + _history(document)


def _queued(
    run: Run, document: Document, now: datetime, workers: list[WorkerRecord], paused: frozenset[str], ahead: int
) -> list[str]:
    lines = [f"It has waited {age(run.queued_at, now)} in queue {run.queue!r} (priority {run.priority})."]
    if run.pipeline not in PIPELINES:
        lines.append(
            f"No worker of this version knows the pipeline {run.pipeline!r}, so none will claim it. There are: "
            f"{', '.join(sorted(PIPELINES))}."
        )
    if run.queue in paused:
        lines.append(f"The queue is paused. Resume it: pod-worker queues resume {run.queue}")
    if document.get("hidden"):
        lines.append("It is hidden, and workers do not claim hidden runs.")
    if run.run_after and run.run_after > now:
        wait = span((run.run_after - now).total_seconds())
        lines.append(f"It waits after a failure and may start again in {wait}.")
    if run.error_code:
        lines.append(f"Its last attempt ended with {run.error_code}: {run.error_message}")
    if run.blocked_by:
        more = f" and {len(run.blocked_by) - 3} more" if len(run.blocked_by) > 3 else ""
        shown = ", ".join(run.blocked_by[:3]) + more
        ending = "CANCELED" if run.after_failure is AfterFailure.SKIP else "FAILED"
        which = "it" if len(run.blocked_by) == 1 else "one of them"
        lines.append(f"It starts when {shown} ended well. If {which} fails, this run ends as {ending}.")
    if start_by := as_datetime(document.get("startBy")):
        left = max((start_by - now).total_seconds(), 0.0)
        lines.append(f"It fails when no worker starts it within {span(left)} (max_queue_time).")
    lines.append(
        f"{ahead} run{'s are' if ahead != 1 else ' is'} ahead of it." if ahead else "No run is ahead of it."
    )
    return lines + explain_workers(run, workers)


# ── runs that are claimed or over ───────────────────────────────────────────────────────────────────────────


def _active(run: Run, document: Document, now: datetime) -> list[str]:
    since = age(as_datetime(document.get("claimedAt")), now)
    lines = [f"Worker {run.claimed_by} has it (attempt {run.attempt}, claimed {since} ago)."]
    stage = as_mapping(document.get("currentStage"))
    if name := as_text(stage.get("name")):
        progress = as_number(stage.get("progress"))
        lines.append(f"It is in stage {stage_title(name)}{'' if progress is None else f' at {progress:.0%}'}.")
    lines.append(_lease(run, now))
    if heartbeat := as_datetime(document.get("lastHeartbeat")):
        lines.append(f"Its last heartbeat arrived {age(heartbeat, now)} ago.")
    if run.cancel_requested_at:
        by = f" by {document['cancelRequestedBy']}" if document.get("cancelRequestedBy") else ""
        lines.append(
            f"Cancellation was requested{by} {age(run.cancel_requested_at, now)} ago; its worker confirms it."
        )
    return lines


def _lease(run: Run, now: datetime) -> str:
    if run.lease_expires_at is None:
        return (
            "The run has no lease, so pod_worker cannot tell whether its external worker is alive. If it is not: "
            f"pod-worker runs reset {run.id}"
        )
    left = (run.lease_expires_at - now).total_seconds()
    if left > 0:
        return f"Its lease ends in {span(left)}; a live worker renews it well before."
    return (
        f"Its lease ended {span(-left)} ago: the worker is dead or cannot reach MongoDB. The control plane or an "
        "idle worker returns the run to the queue within seconds."
    )


def _ended(run: Run, document: Document) -> list[str]:
    if run.status is RunStatus.COMPLETED:
        ended = clock_time(as_datetime(document.get("completedAt")))
        return [f"It completed at {ended}, in attempt {run.attempt}."]
    if run.status is RunStatus.CANCELED:
        reason = as_text(document.get("cancelReason"))
        shown = f" Reason: {reason}." if reason else ""
        return [f"It was canceled.{shown} Queue it again: pod-worker runs reset {run.id}"]
    if run.status is RunStatus.AWAITING_HUMAN:
        return [
            "Its work is done, and a person decides what the result is worth.",
            f"Read it: pod-worker artifacts get {run.id} report.html",
        ]
    if run.status is not RunStatus.FAILED:
        return [f"It is {run.status}."]
    return _failed(run, document)


def _failed(run: Run, document: Document) -> list[str]:
    stage = as_text(document.get("errorStage"))
    where = f" in stage {stage_title(stage)}" if stage else ""
    lines = [f"It failed{where} with {run.error_code}: {run.error_message}"]
    failure = known_failure(run.error_code, run.exit_code)
    if failure and (hint := failure_hint(failure, run.retry_on)):
        lines.append(hint)
    done = [stage_title(name) for name, checkpoint in run.checkpoints.items() if checkpoint.done]
    kept = f" (it continues after {', '.join(done)})" if done else ""
    lines.append(f"Queue it again: pod-worker runs reset {run.id}{kept}")
    if run.error_code in _INPUT_CODES:
        lines.append(f"With other parameters: pod-worker runs reset {run.id} --param NAME=VALUE")
    return lines


def _history(document: Document) -> list[str]:
    entries = document.get("history")
    if not isinstance(entries, list) or not entries:
        return []
    return ["History:"] + [f"  {_line(each)}" for each in entries[-HISTORY_SHOWN:] if isinstance(each, dict)]


def _line(entry: dict[str, Json]) -> str:
    by = f" by {entry['by']}" if entry.get("by") else ""
    detail = f": {entry['detail']}" if entry.get("detail") else ""
    at = clock_time(as_datetime(entry.get("at")))
    return f"{at}  {entry.get('what')}{by} (attempt {entry.get('attempt')}){detail}"
