"""The records of the journal: facts, in the order in which they happened."""

from __future__ import annotations

import msgspec

from pod_worker.search.tree.node import NodeOutcome, Operation

VERSION = 1


class Record(msgspec.Struct, kw_only=True, tag_field="kind", omit_defaults=True):
    """One line of the journal."""


class SearchStarted(Record, tag="search_started"):
    version: int
    seed: int


class NodePlanned(Record, tag="planned"):
    """The policy decided; nothing is paid yet."""

    node_id: str
    stage: str
    step: int
    operation: Operation
    seed: int
    parent: str | None = None
    replica_of: str | None = None


class NodeProposed(Record, tag="proposed"):
    """The program is paid and stored."""

    node_id: str
    code: str
    shape: str
    plan: str = ""
    change: str = ""
    calls: int = 0
    is_scripted: bool = False


class NodeDeclined(Record, tag="declined"):
    """The proposal became no program: a duplicate, no code, or a failure of the model."""

    node_id: str
    reason: str
    calls: int
    failure_code: str | None = None


class NodeStarted(Record, tag="started"):
    node_id: str


class NodeInterrupted(Record, tag="interrupted"):
    """A stop request ended the execution; the node is executed again on resume."""

    node_id: str


class NodeFinished(Record, tag="finished"):
    node_id: str
    outcome: NodeOutcome
    search_score: float | None = None
    hidden_score: float | None = None
    is_self_reported: bool = False
    error_kind: str = ""
    error: str = ""
    exec_seconds: float = 0.0
    output: str = ""
    seed_proof: str = ""


class NodeAnalysed(Record, tag="insight"):
    node_id: str
    analysis: str = ""
    insight: str = ""
    calls: int = 1
    failure_code: str | None = None


class FailuresVoided(Record, tag="failures_voided"):
    """The model failures that ended the attempt before count no more."""


class StageSelected(Record, tag="selection"):
    """Which node a stage ends with, and what it was compared with.

    Scores are those that select (hidden where there is an evaluator); means are over the replicas alone.
    """

    stage: str
    candidate: str | None  # best node of the stage
    selected: str | None  # the node that the next stage starts from
    is_better: bool  # the candidate lies beyond the noise band of the reference
    reference: str | None = None  # the node that the stage started from
    band: float | None = None
    candidate_mean: float | None = None
    reference_mean: float | None = None
    candidate_scores: tuple[float, ...] = ()
    reference_scores: tuple[float, ...] = ()


class StageFinished(Record, tag="stage_finished"):
    stage: str
    reason: str


AnyRecord = (
    SearchStarted
    | NodePlanned
    | NodeProposed
    | NodeDeclined
    | NodeStarted
    | NodeInterrupted
    | NodeFinished
    | NodeAnalysed
    | FailuresVoided
    | StageSelected
    | StageFinished
)
