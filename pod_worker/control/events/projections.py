"""What each event type means: a pure function from an event to view changes.

The table is total over the payloads of the contract; a type without a view is listed as such. This module knows
neither the database, nor the order of arrival, nor earlier projections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any, TypeAlias, TypeVar

from pod_worker.control.events.incoming import IncomingEvent
from pod_worker.core import payload as p
from pod_worker.core.event import Event, Version, version_of
from pod_worker.core.identifiers.row_id import row_id
from pod_worker.core.research.ideation import AUTOMATIC, usable_ideas
from pod_worker.core.run import RunStatus as S
from pod_worker.store.views.changes import (
    SELECTED_IDEA,
    CamelCaseKeys,
    Change,
    FieldUpdate,
    MetricPoint,
    StatusTransition,
    View,
    ViewChanges,
    quote_segment,
)

PayloadT = TypeVar("PayloadT", bound=p.Payload)
Projection: TypeAlias = Callable[[Event, Any], Iterable[Change]]

PROJECTIONS: dict[str, Projection] = {}
SYSTEM_STAGE = "system"  # the series of a pod's own gauges, beside those of the stages
_COUNTS = ("eta_s", "iteration", "max_iterations", "good_nodes", "buggy_nodes", "total_nodes", "best_metric")
_GAUGES = tuple(field.name for field in fields(p.RunHeartbeat))
_ERROR = ("error_code", "error_message", "error_traceback", "error_stage", "retryable", "failed_at")
_NO_ERROR = {"error": dict.fromkeys(_ERROR)}


def project(batch: Iterable[IncomingEvent]) -> ViewChanges:
    """Every change of the events, with the version that wrote it."""
    changes = ViewChanges()
    add = changes.add
    newest: dict[str, tuple[Version, int, int]] = {}  # run id -> version, attempt, seq
    for each in batch:
        event, payload, run_id, attempt = each.event, each.payload, each.run_id, each.counted_attempt
        if payload is None or run_id is None or attempt is None:
            continue  # nothing that a view shows
        # A sequence number orders the events of one emitter in one attempt. An event without an attempt comes
        # from a foreign emitter, which may restart its count at any time, so there only time orders.
        seq = event.seq if event.attempt is not None else None
        version = version_of(attempt, seq, event.time, event.id)
        for change in PROJECTIONS[event.type](event, payload):
            add(run_id, attempt, version, change)
        # What the log does not keep must not count, or a replay would come to another number.
        if event.seq and not payload.transient and (run_id not in newest or newest[run_id][0] < version):
            newest[run_id] = (version, attempt, event.seq)
    for run_id, (version, attempt, seq) in newest.items():
        add(run_id, attempt, version, FieldUpdate(View.RUN, "", "last_event_seq", {"last_event_seq": seq}))
    return changes


def projects(
    *kinds: type[PayloadT],
) -> Callable[[Callable[[Event, PayloadT], Iterable[Change]]], Callable[[Event, PayloadT], Iterable[Change]]]:
    def register(function: Callable[[Event, PayloadT], Iterable[Change]]) -> Any:
        for kind in kinds:
            PROJECTIONS[kind.type] = function
        return function

    return register


# ── the run ─────────────────────────────────────────────────────────────────────────────────────────────────


@projects(p.RunStarted)
def _started(event: Event, data: p.RunStarted) -> Iterable[Change]:
    pod = {"id": data.pod_id, "worker_id": data.worker_id, "gpu": data.gpu, "region": data.region}
    fields = {f"pod.{name}": value for name, value in pod.items()} | {"pod.image": data.image}
    yield FieldUpdate(View.RUN, "", "started", {"started_at": event.time, **fields})
    yield StatusTransition((S.RUNNING,), _NO_ERROR)


@projects(p.RunHeartbeat)
def _heartbeat(event: Event, data: p.RunHeartbeat) -> Iterable[Change]:
    gauges = {name: getattr(data, name) for name in _GAUGES}
    shown = {f"heartbeat.{name}": value for name, value in gauges.items()}
    yield FieldUpdate(View.RUN, "", "heartbeat", {"last_heartbeat": event.time, **shown})
    for name, value in gauges.items():
        if value is not None:
            yield MetricPoint(SYSTEM_STAGE, name, value, event.time, is_latest_shown=False)


@projects(p.RunCompleted)
def _completed(event: Event, data: p.RunCompleted) -> Iterable[Change]:
    yield FieldUpdate(View.RUN, "", "duration", {"total_duration_s": data.total_duration_s})
    yield StatusTransition((S.COMPLETED,), {"completed": {"completed_at": event.time}, **_NO_ERROR})


@projects(p.RunFailed)
def _failed(event: Event, data: p.RunFailed) -> Iterable[Change]:
    error = {
        "error_code": data.code,
        "error_message": data.message,
        "error_traceback": data.traceback,
        "error_stage": data.stage,
        "retryable": data.retryable,
        "failed_at": event.time,
    }
    yield StatusTransition((S.FAILED,), {"error": error})


@projects(p.RunCanceled)
def _canceled(event: Event, data: p.RunCanceled) -> Iterable[Change]:
    ended = {"canceled_at": event.time, "canceled_by": data.by, "cancel_reason": data.reason}
    yield StatusTransition((S.CANCELED,), {"canceled": ended})


@projects(p.RunLost)
def _lost(event: Event, data: p.RunLost) -> Iterable[Change]:
    yield _interruption(event, "lost", data.reason)


@projects(p.RunPreempted)
def _preempted(event: Event, data: p.RunPreempted) -> Iterable[Change]:
    yield _interruption(event, "preempted", data.reason)


def _interruption(event: Event, kind: str, reason: str) -> FieldUpdate:
    fields = {"interruption.kind": kind, "interruption.reason": reason, "interruption.at": event.time}
    return FieldUpdate(View.RUN, "", "interruption", fields)


# ── stages ──────────────────────────────────────────────────────────────────────────────────────────────────


@projects(p.StageStarted)
def _stage_started(event: Event, data: p.StageStarted) -> Iterable[Change]:
    yield FieldUpdate(View.STAGE, data.stage, "started", {"started_at": event.time, "desc": data.desc})
    yield FieldUpdate(View.STAGE, data.stage, "status", _stage_status("RUNNING"))
    yield from _progressed(p.StageProgress(stage=data.stage, progress=0.0))
    timing = f"stage_timing.{quote_segment(data.stage)}"
    yield FieldUpdate(View.RUN, "", f"{timing}.started", {f"{timing}.started_at": event.time})


@projects(p.StageProgress)
def _stage_progress(event: Event, data: p.StageProgress) -> Iterable[Change]:
    yield from _progressed(data)


@projects(p.StageMetric)
def _stage_metric(event: Event, data: p.StageMetric) -> Iterable[Change]:
    return (MetricPoint(data.stage, data.name, data.value, event.time, data.step, data.epoch, data.unit),)


@projects(p.StageCompleted)
def _stage_completed(event: Event, data: p.StageCompleted) -> Iterable[Change]:
    ended = {"completed_at": event.time, "duration_s": data.duration_s, "summary": data.summary}
    yield FieldUpdate(View.STAGE, data.stage, "status", _stage_status("COMPLETED") | ended)
    yield FieldUpdate(View.STAGE, data.stage, "progress", {"progress": 1.0})
    yield FieldUpdate(
        View.RUN, "", "current_stage", {"current_stage": CamelCaseKeys(name=data.stage, progress=1.0)}
    )
    timing = f"stage_timing.{quote_segment(data.stage)}"
    times = {f"{timing}.completed_at": event.time, f"{timing}.duration_s": data.duration_s}
    yield FieldUpdate(View.RUN, "", f"{timing}.completed", times)


@projects(p.StageFailed)
def _stage_failed(event: Event, data: p.StageFailed) -> Iterable[Change]:
    ended = {"completed_at": event.time, "error_code": data.code, "error_message": data.message}
    yield FieldUpdate(View.STAGE, data.stage, "status", _stage_status("FAILED") | ended)


def _stage_status(status: str) -> dict[str, Any]:
    """All fields of the group, so that a stage that runs again drops the former ones."""
    absent = ("completed_at", "duration_s", "summary", "error_code", "error_message")
    return {"status": status} | dict.fromkeys(absent)


def _progressed(data: p.StageProgress) -> Iterable[Change]:
    clamped = min(1.0, max(0.0, data.progress))
    counts = {name: value for name in _COUNTS if (value := getattr(data, name)) is not None}
    yield FieldUpdate(View.STAGE, data.stage, "progress", {"progress": clamped})
    # A group of its own: a stage's end moves its progress to 1 and leaves its counts as they were.
    yield FieldUpdate(View.STAGE, data.stage, "counts", {"counts": CamelCaseKeys(counts)})
    shown = CamelCaseKeys(name=data.stage, progress=clamped, **counts)
    yield FieldUpdate(View.RUN, "", "current_stage", {"current_stage": shown})


@projects(p.NodeSelectedBest)
def _best_node(event: Event, data: p.NodeSelectedBest) -> Iterable[Change]:
    best = {"best_node.id": data.node_id, "best_node.metric": data.metric}
    yield FieldUpdate(View.STAGE, data.stage, "best_node", best)


# ── results of a run ────────────────────────────────────────────────────────────────────────────────


@projects(p.ArtifactRegistered)
def _artifact(event: Event, data: p.ArtifactRegistered) -> Iterable[Change]:
    row = {
        "key": data.key,
        "bytes": data.bytes,
        "content_type": data.content_type,
        "kind": data.kind,
        "sha256": data.sha256,
        "role": data.role,
        "created_at": event.time,
    }
    yield FieldUpdate(View.ARTIFACT, row_id(data.kind, data.sha256 or data.key), "registered", row)


@projects(p.TrainingCheckpoint)
def _checkpoint(event: Event, data: p.TrainingCheckpoint) -> Iterable[Change]:
    shown = {f"training_checkpoint.{name}": getattr(data, name) for name in ("step", "key", "bytes", "sha256")}
    yield FieldUpdate(View.RUN, "", "training_checkpoint", shown)


@projects(p.PaperGenerated)
def _paper(event: Event, data: p.PaperGenerated) -> Iterable[Change]:
    shown = {"paper.artifact_key": data.artifact_key, "paper.word_count": data.word_count}
    yield FieldUpdate(View.RUN, "", "paper", shown)


@projects(p.ValidationStarted)
def _validation_started(event: Event, data: p.ValidationStarted) -> Iterable[Change]:
    begun = {"model": data.model, "rubric_version": data.rubric_version, "started_at": event.time}
    yield FieldUpdate(View.VALIDATION, "auto", "started", begun)
    yield StatusTransition((S.RUNNING, S.AUTO_VALIDATING))


@projects(p.ValidationCompleted)
def _validated(event: Event, data: p.ValidationCompleted) -> Iterable[Change]:
    scored = {"verdict": data.verdict, "rubric": data.scores, "notes": data.notes, "created_at": event.time}
    yield FieldUpdate(View.VALIDATION, "auto", "verdict", scored)
    # A verdict implies that the validation began, even when that event arrives later.
    yield StatusTransition((S.RUNNING, S.AUTO_VALIDATING, S.AWAITING_HUMAN))


@projects(p.IdeationGenerated)
def _ideas(event: Event, data: p.IdeationGenerated) -> Iterable[Change]:
    ideas = usable_ideas(data.ideas)
    if not ideas:  # a foreign emitter tells the number alone
        return
    shown = {"ideas": ideas, "idea_count": len(ideas), "generated_at": event.time, "is_scripted": data.is_scripted}
    yield FieldUpdate(View.IDEATION, "", "ideas", shown)
    if data.hypothesis_id:
        nested = {f"ideation.{name}": value for name, value in shown.items()}
        yield FieldUpdate(View.HYPOTHESIS, data.hypothesis_id, "ideation.ideas", nested)
        source = CamelCaseKeys(request_id=event.run_id, index=0, by=AUTOMATIC)
        selected = {"idea_json": ideas[0], "idea_source": source}
        yield FieldUpdate(View.HYPOTHESIS, data.hypothesis_id, SELECTED_IDEA, selected)


@projects(p.BudgetWarning, p.BudgetExceeded)
def _budget(event: Event, data: p.Budget) -> Iterable[Change]:
    shown = {f"budget.{name}": getattr(data, name) for name in ("spent_usd", "limit_usd", "fraction")}
    exceeded = {"budget.exceeded": event.type == p.BudgetExceeded.type}
    yield FieldUpdate(View.RUN, "", "budget", shown | exceeded)


@projects(p.GpuShortage)
def _gpu_shortage(event: Event, data: p.GpuShortage) -> Iterable[Change]:
    shown = {"required": data.required_gpus, "available": data.available_gpus, "message": data.message}
    yield FieldUpdate(
        View.RUN, "", "gpu_shortage", {f"gpu_shortage.{name}": value for name, value in shown.items()}
    )


@projects(
    p.RunEnqueued,  # the queue wrote the run itself
    p.RunStatusChanged,  # the change itself was made by the queue
    p.RunLog,
    p.NodeCreated,
    p.NodeExecuting,
    p.NodeCompleted,
    p.IdeationStarted,  # the state of a request follows from its run (store.ideation.status_sync)
    p.IdeationFailed,
    p.PaperStarted,
    p.ArtifactDetected,
    p.ArtifactFailed,
)
def _history_only(event: Event, data: p.Payload) -> Iterable[Change]:
    """Kept in the event log, and read from there."""
    return ()
