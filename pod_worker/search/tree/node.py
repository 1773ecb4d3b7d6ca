"""A node of the search tree: one program, its origin and its outcome.

Nodes are immutable. `state.apply` makes a new node for each record of the journal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Operation(StrEnum):
    DRAFT = "draft"  # a first program for the idea
    DEBUG = "debug"  # repair the program of a node without a score
    IMPROVE = "improve"  # one novel change to a scored program
    TUNE = "tune"  # one change of hyperparameters
    ABLATE = "ablate"  # remove one component
    REPLICATE = "replicate"  # the same program with another seed; no model call


class NodeOutcome(StrEnum):
    SCORED = "scored"
    BUGGY = "buggy"  # the program ended with an error
    TIMED_OUT = "timed_out"
    NO_SCORE = "no_score"  # the program ended well, its result files were refused


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchNode:
    """One node; `step` counts the decisions of its stage from 1."""

    id: str
    stage: str
    step: int
    operation: Operation
    seed: int  # RUN_SEED of its execution; the controller owns it
    position: int  # records of the journal before the decision: what the decision was made from
    parent: str | None = None
    replica_of: str | None = None
    # The proposal.
    plan: str = ""
    change: str = ""
    code: str | None = None  # SHA-256 of the program; None until a model wrote it
    shape: str = ""  # hash of the normalised program, see duplicates.py
    calls: int = 0  # model calls paid for the proposal and the analysis
    is_scripted: bool = False
    declined: str = ""  # why the proposal became no program
    is_model_failure: bool = False  # declined because the model or its provider failed
    is_voided: bool = False  # the failed proposal no longer counts as an iteration
    # The execution.
    starts: int = 0  # without the ones that a stop request ended
    outcome: NodeOutcome | None = None
    search_score: float | None = None
    hidden_score: float | None = None
    is_self_reported: bool = False
    error_kind: str = ""  # ValueError, SIGSEGV, memory, missing …
    error: str = ""
    exec_seconds: float = 0.0
    output: str = ""
    seed_proof: str = ""
    # The analysis.
    is_analysed: bool = False
    analysis: str = ""
    insight: str = ""

    @property
    def folder(self) -> str:
        """The node folder, relative to the folder of the search."""
        return f"nodes/{self.id}"

    @property
    def is_replica(self) -> bool:
        return self.replica_of is not None

    @property
    def is_scored(self) -> bool:
        return self.outcome is NodeOutcome.SCORED

    @property
    def is_finished(self) -> bool:
        return self.outcome is not None or bool(self.declined)

    @property
    def is_proposing(self) -> bool:
        return self.code is None and not self.declined

    @property
    def is_ready(self) -> bool:
        """Whether the program is there and has no outcome yet."""
        return self.code is not None and self.outcome is None

    @property
    def needs_analysis(self) -> bool:
        return self.outcome is not None and not self.is_replica and not self.is_analysed

    @property
    def is_settled(self) -> bool:
        """Whether nothing more will be recorded for it."""
        return self.is_finished and not self.needs_analysis

    @property
    def selection_score(self) -> float | None:
        """The score that selects: hidden where the task has an evaluator."""
        return self.search_score if self.hidden_score is None else self.hidden_score


def node_id(stage: str, step: int) -> str:
    return f"{stage}-{step:03d}"


def derive_seed(*parts: object) -> int:
    """A seed in 0 … 2**31 - 1 that depends on every part and on nothing else."""
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=4).digest()
    return int.from_bytes(digest) & 0x7FFF_FFFF


def debug_depth(nodes: Mapping[str, SearchNode], node: SearchNode) -> int:
    """How many debug steps in a row led to the node."""
    depth = 0
    while node.operation is Operation.DEBUG and node.parent is not None:
        depth += 1
        node = nodes[node.parent]
    return depth
