"""`runs why`: why a run waits, who has it, why it ended, and what to do."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from pod_worker.cli.composition import StoreSession
from pod_worker.cli.document_values import as_datetime, as_mapping, as_number, as_text
from pod_worker.cli.output import age, clock_time, span
from pod_worker.core.failure import FAILURE_POLICIES, FailureClass, known_failure
from pod_worker.core.retry import failure_hint
from pod_worker.core.run import AfterFailure, Json, Requirements, Run, RunStatus
from pod_worker.core.stage import stage_title
from pod_worker.pipelines import MODES, PIPELINES
from pod_worker.store.mongo import Document, server_time
from pod_worker.store.queue.run_document import run_from_document
from pod_worker.store.queue.waiting import count_runs_ahead
from pod_worker.store.worker_registry import WorkerRecord, WorkerRegistry, WorkerState
from pod_worker.worker.machine import names_of_gpu

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
        ending = "canceled" if run.after_failure is AfterFailure.SKIP else "FAILED"
        lines.append(f"It starts when {shown} ended well. If one of them fails, this run ends as {ending}.")
    lines.append(
        f"{ahead} run{'s are' if ahead != 1 else ' is'} ahead of it." if ahead else "No run is ahead of it."
    )
    return lines + _eligible_workers(run, workers)


# ── which workers could claim it ────────────────────────────────────────────────────────────────────────────


def _eligible_workers(run: Run, workers: list[WorkerRecord]) -> list[str]:
    modes = [mode for mode, queues in MODES.items() if run.queue in queues]
    alive = [worker for worker in workers if _is_alive(worker)]
    serving = [worker for worker in alive if run.queue in (worker.queues or MODES.get(worker.mode, ()))]
    if not modes and not serving:
        return [
            f"No worker serves queue {run.queue!r}: no worker mode includes it. Start one with `pod-worker worker "
            f"--queue {run.queue}`. Or queue a copy in another queue and cancel this run: pod-worker runs clone "
            f"{run.id} --queue {run.pipeline}"
        ]
    if not serving:
        others = ", ".join(f"{count} in mode {mode}" for mode, count in Counter(w.mode for w in alive).items())
        there = f" ({others})" if others else ""
        mode = "all" if "all" in modes else modes[0]
        start = f"No running worker serves this queue{there}. Start one: pod-worker worker --mode {mode}"
        return [*_needs_line(run), start]
    able = [worker for worker in serving if not _unmet(run.requirements, worker)]
    if not able:
        return [_no_match(run.requirements, serving)]
    idle = sum(worker.state == WorkerState.IDLE for worker in able)
    lines = [f"{len(able)} worker{'s' if len(able) != 1 else ''} can claim it; {idle} idle."]
    return (
        _needs_line(run)
        + lines
        + [f"{w.worker_id} refuses to work: {w.reason}" for w in able if w.state == WorkerState.UNHEALTHY]
    )


def _is_alive(worker: WorkerRecord) -> bool:
    return worker.state not in (WorkerState.GONE, WorkerState.STOPPED)


def _needs_line(run: Run) -> list[str]:
    needs = _needs(run.requirements)
    return [f"It needs a pod with {needs}."] if needs else []


def _needs(needs: Requirements) -> str:
    parts = [f"GPU {needs.gpu}"] if needs.gpu else []
    parts += [f"at least {needs.min_vram_gb:g} GB of GPU memory"] if needs.min_vram_gb else []
    parts += [f"at most {needs.max_vram_gb:g} GB of GPU memory"] if needs.max_vram_gb else []
    parts += [f"{needs.gpu_count} GPUs"] if needs.gpu_count else []
    parts += [f"{needs.cpus:g} CPU cores"] if needs.cpus else []
    parts += [f"{needs.memory_gb:g} GB of memory"] if needs.memory_gb else []
    parts += [f"{needs.disk_gb:g} GB of free disk"] if needs.disk_gb else []
    parts += [f"region {needs.region}"] if needs.region else []
    return ", ".join(parts)


def _unmet(needs: Requirements, worker: WorkerRecord) -> bool:
    """Only what a worker's record shows.

    A pod without a GPU has neither the model nor the memory.
    """
    if worker.gpu is None:
        return bool(needs.gpu or needs.min_vram_gb or needs.gpu_count)
    return needs.gpu is not None and needs.gpu not in names_of_gpu(worker.gpu)


def _no_match(needs: Requirements, serving: list[WorkerRecord]) -> str:
    have = Counter(worker.gpu or "no GPU" for worker in serving)
    there = ", ".join(f"{count} with {gpu}" for gpu, count in have.items())
    return (
        f"No running worker meets its requirements. It needs a pod with {_needs(needs)}; the queue's workers are: "
        f"{there}. Start a worker on such a pod, or submit the run with other requirements."
    )


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
