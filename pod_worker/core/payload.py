"""The `data` of every event type: the schema shared by both sides of the wire.

Each is one frozen dataclass.

The emitter encodes them, ingest validates against them (msgspec reads them), projections receive them. Optional
means null or absent. Unknown keys are kept in the event log and ignored here. The codec refuses numbers that are
not finite. No slots, because they double the time that the codec takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pod_worker.core.run import Json

LogLevel = Literal["debug", "info", "warn", "warning", "error"]
LOG_MESSAGE_BYTES = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Payload:
    type: ClassVar[str] = ""
    # Not kept in the event log: too many, and only the latest matters.
    transient: ClassVar[bool] = False
    # Dropped first when a pod's disk runs short; lifecycle events never are.
    sample: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class RunEnqueued(Payload):
    type: ClassVar[str] = "ai.run.enqueued"
    hypothesis_id: str | None = None
    pipeline: str | None = None
    priority: int | str | None = None


@dataclass(frozen=True, kw_only=True)
class RunStarted(Payload):
    type: ClassVar[str] = "ai.run.started"
    pod_id: str
    worker_id: str | None = None
    gpu: str | None = None
    region: str | None = None
    image: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunHeartbeat(Payload):
    type: ClassVar[str] = "ai.run.heartbeat"
    transient: ClassVar[bool] = True
    sample: ClassVar[bool] = True
    gpu_util: float | None = None
    mem_gb: float | None = None
    temp_c: float | None = None
    cpu_pct: float | None = None
    rss_gb: float | None = None
    disk_free_gb: float | None = None
    gpu_power_w: float | None = None


@dataclass(frozen=True, kw_only=True)
class RunStatusChanged(Payload):
    type: ClassVar[str] = "ai.run.status_changed"
    to: str
    # "from" is a Python keyword; the wire's name is restored by the codec (see RENAMED).
    from_: str
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunCompleted(Payload):
    type: ClassVar[str] = "ai.run.completed"
    total_duration_s: float


@dataclass(frozen=True, kw_only=True)
class RunFailed(Payload):
    type: ClassVar[str] = "ai.run.failed"
    code: str
    message: str
    stage: str | None = None
    traceback: str | None = None
    retryable: bool | None = None


@dataclass(frozen=True, kw_only=True)
class RunCanceled(Payload):
    type: ClassVar[str] = "ai.run.canceled"
    by: str | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunLost(Payload):
    type: ClassVar[str] = "ai.run.lost"
    reason: str


@dataclass(frozen=True, kw_only=True)
class RunPreempted(Payload):
    type: ClassVar[str] = "ai.run.preempted"
    reason: str
    seconds_left: float | None = None


@dataclass(frozen=True, kw_only=True)
class StageStarted(Payload):
    type: ClassVar[str] = "ai.run.stage_started"
    stage: str
    desc: str | None = None


@dataclass(frozen=True, kw_only=True)
class StageProgress(Payload):
    type: ClassVar[str] = "ai.run.stage_progress"
    sample: ClassVar[bool] = True
    stage: str
    progress: float  # clamped to 0..1 by the projection, stored as given
    eta_s: float | None = None
    iteration: int | None = None
    max_iterations: int | None = None
    good_nodes: int | None = None
    buggy_nodes: int | None = None
    total_nodes: int | None = None
    best_metric: str | float | None = None


@dataclass(frozen=True, kw_only=True)
class StageMetric(Payload):
    type: ClassVar[str] = "ai.run.stage_metric"
    sample: ClassVar[bool] = True
    stage: str
    name: str
    value: float
    step: int | None = None
    epoch: float | None = None
    unit: str | None = None


@dataclass(frozen=True, kw_only=True)
class StageCompleted(Payload):
    type: ClassVar[str] = "ai.run.stage_completed"
    stage: str
    duration_s: float | None = None
    summary: dict[str, Json] | None = None


@dataclass(frozen=True, kw_only=True)
class StageFailed(Payload):
    type: ClassVar[str] = "ai.run.stage_failed"
    stage: str
    code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class RunLog(Payload):
    type: ClassVar[str] = "ai.run.log"
    sample: ClassVar[bool] = True
    message: str
    level: LogLevel = "info"
    kv: dict[str, Json] | None = None
    source: str | None = None


@dataclass(frozen=True, kw_only=True)
class Node(Payload):
    stage: str
    node_id: str
    parent_id: str | None = None
    plan: str | None = None
    is_buggy: bool | None = None
    exec_time_s: float | None = None
    metric: str | float | None = None


@dataclass(frozen=True, kw_only=True)
class NodeCreated(Node):
    type: ClassVar[str] = "ai.node.created"


@dataclass(frozen=True, kw_only=True)
class NodeExecuting(Node):
    type: ClassVar[str] = "ai.node.executing"


@dataclass(frozen=True, kw_only=True)
class NodeCompleted(Node):
    type: ClassVar[str] = "ai.node.completed"


@dataclass(frozen=True, kw_only=True)
class NodeSelectedBest(Node):
    type: ClassVar[str] = "ai.node.selected_best"


@dataclass(frozen=True, kw_only=True)
class IdeationStarted(Payload):
    type: ClassVar[str] = "ai.ideation.started"


@dataclass(frozen=True, kw_only=True)
class IdeationGenerated(Payload):
    type: ClassVar[str] = "ai.ideation.generated"
    count: int
    top_k: list[str] | None = None
    # Ours: all ideas so far, so that the newest event alone tells the state of the request.
    ideas: list[dict[str, Json]] | None = None
    hypothesis_id: str | None = None
    is_scripted: bool | None = None  # written by the scripted model, not by a language model


@dataclass(frozen=True, kw_only=True)
class IdeationFailed(Payload):
    type: ClassVar[str] = "ai.ideation.failed"
    code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class PaperStarted(Payload):
    type: ClassVar[str] = "ai.paper.started"


@dataclass(frozen=True, kw_only=True)
class PaperGenerated(Payload):
    type: ClassVar[str] = "ai.paper.generated"
    artifact_key: str
    word_count: int | None = None


@dataclass(frozen=True, kw_only=True)
class ValidationStarted(Payload):
    type: ClassVar[str] = "ai.validation.auto_started"
    model: str
    rubric_version: str | None = None


@dataclass(frozen=True, kw_only=True)
class ValidationCompleted(Payload):
    type: ClassVar[str] = "ai.validation.auto_completed"
    verdict: Literal["pass", "fail", "inconclusive"]
    scores: dict[str, float] | None = None
    notes: str | None = None


@dataclass(frozen=True, kw_only=True)
class ArtifactDetected(Payload):
    type: ClassVar[str] = "ai.artifact.detected"
    path: str


@dataclass(frozen=True, kw_only=True)
class ArtifactRegistered(Payload):
    type: ClassVar[str] = "ai.artifact.registered"
    key: str
    bytes: int
    content_type: str
    kind: str
    sha256: str | None = None
    role: str | None = None


@dataclass(frozen=True, kw_only=True)
class ArtifactFailed(Payload):
    type: ClassVar[str] = "ai.artifact.failed"
    key: str
    code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class TrainingCheckpoint(Payload):
    type: ClassVar[str] = "ai.training.checkpoint"
    step: int
    key: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Budget(Payload):
    spent_usd: float
    limit_usd: float
    fraction: float


@dataclass(frozen=True, kw_only=True)
class BudgetWarning(Budget):
    type: ClassVar[str] = "ai.budget.warning"


@dataclass(frozen=True, kw_only=True)
class BudgetExceeded(Budget):
    type: ClassVar[str] = "ai.budget.exceeded"


@dataclass(frozen=True, kw_only=True)
class GpuShortage(Payload):
    type: ClassVar[str] = "ai.pod.gpu_shortage"
    required_gpus: int
    available_gpus: int
    message: str | None = None


def _concrete(kind: type[Payload]) -> list[type[Payload]]:
    found = [kind] if kind.type else []
    return found + [leaf for child in kind.__subclasses__() for leaf in _concrete(child)]


# Every event type of the contract; a test holds the projections and the documentation to this table.
PAYLOADS: dict[str, type[Payload]] = {kind.type: kind for kind in _concrete(Payload)}

# Field names that Python cannot spell -> the wire's.
RENAMED = {"from_": "from"}
