"""The results of a search that a paper may use, as plain data.

The stages build them from the journal. Nothing here decides what is better: the search did.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.research.literature import normalized
from pod_worker.core.research.measure import Estimate, Metric, estimate

ABLATION_STAGE = "Stage_4"
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCurve:
    name: str  # train_loss, search_accuracy …
    seed: int
    steps: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedNode:
    """A scored node of the search with the scores of its executions, one per seed."""

    node_id: str
    stage: str  # the wire's name
    change: str  # a short label
    artifact: str  # where its scores are recorded: a path in the run's folder, or an artifact's key
    scores: tuple[float, ...]  # on the hidden split; self-reported ones where the task has no evaluator
    search_scores: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()
    program_sha256: str = ""
    plan: str = ""
    seconds: float = 0.0
    is_best: bool = False  # the search selected it as the best of its stage
    is_self_reported: bool = False
    is_confirmed: bool = True  # False: self-reported and not repeated with fresh seeds
    curves: tuple[RecordedCurve, ...] = ()

    @property
    def estimate(self) -> Estimate:
        return estimate(self.scores)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFact:
    """A count of the task: rows, features, classes."""

    key: str  # lower case, such as train_rows
    value: int
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedResults:
    run_id: str
    task: str  # its title
    metric: Metric
    nodes: tuple[RecordedNode, ...]  # scored ones, in the order of the journal
    outcomes: dict[str, int]  # how many executed nodes ended as scored, buggy, timed_out, no_score
    task_facts: tuple[TaskFact, ...] = ()
    baseline_id: str | None = None  # the replicated baseline
    full_method_id: str | None = None  # what the ablations started from; None: the best node before them
    noise_band: float | None = None  # of the baseline: a smaller difference is no improvement
    models: tuple[str, ...] = ()
    is_scripted: bool = False  # a scripted model wrote the code

    @property
    def usable(self) -> tuple[RecordedNode, ...]:
        """Nodes whose scores may enter the paper."""
        return tuple(
            node for node in self.nodes if node.scores and (node.is_confirmed or not node.is_self_reported)
        )

    @property
    def excluded(self) -> tuple[RecordedNode, ...]:
        """Self-reported scores that no repetition confirmed."""
        usable = {node.node_id for node in self.usable}
        return tuple(node for node in self.nodes if node.node_id not in usable)

    @property
    def baseline(self) -> RecordedNode | None:
        return next((node for node in self.usable if node.node_id == self.baseline_id), None)

    def best_of(self, stage: str) -> RecordedNode | None:
        return next((node for node in reversed(self.usable) if node.stage == stage and node.is_best), None)

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that have a selected best, in order."""
        names = dict.fromkeys(node.stage for node in self.usable)
        return tuple(stage for stage in sorted(names) if self.best_of(stage) is not None)

    @property
    def method_stages(self) -> tuple[str, ...]:
        """The stages whose best is a method, not a method with a component removed."""
        return tuple(stage for stage in self.stages if stage != ABLATION_STAGE)

    @property
    def ablations(self) -> tuple[RecordedNode, ...]:
        return tuple(node for node in self.usable if node.stage == ABLATION_STAGE)

    @property
    def full_method(self) -> RecordedNode | None:
        """The node whose components the ablations remove: the best one before them."""
        if named := next((node for node in self.usable if node.node_id == self.full_method_id), None):
            return named
        before = self.method_stages
        return self.best_of(before[-1]) if before else self.baseline

    def label_of(self, node: RecordedNode) -> str:
        """The change of a node; its id where the label could be read as a result.

        A model wrote the label. Its digits are a setting, unless it speaks of the metric or of percents.
        """
        label = node.change
        has_claim = "%" in label or normalized(self.metric.name) in normalized(label)
        return f"node {node.node_id}" if has_claim and re.search(r"\d", label) else label

    def is_beyond_noise(self, node: RecordedNode, reference: RecordedNode) -> bool:
        """Whether the node is better than the reference by more than the noise."""
        difference, half_width = compare(node, reference)
        band = max(half_width, self.noise_band or 0.0)
        gain = difference if self.metric.direction == "higher" else -difference
        return gain > band


def compare(node: RecordedNode, reference: RecordedNode) -> tuple[float, float]:
    """The difference of two means and the half width of its 95 % interval.

    The half widths are added in quadrature. Infinite where one of the two has a single value.
    """
    left, right = node.estimate, reference.estimate
    return left.mean - right.mean, float((left.half_width**2 + right.half_width**2) ** 0.5)


def write_json(path: Path, value: object) -> None:
    """Write a record as JSON that a person can read; a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n")
    partial.replace(path)


def read_json(path: Path, kind: type[T]) -> T:
    """Raises RunError(INVALID_INPUT) for a file that is absent or no such record."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError) as error:
        raise RunError(
            FailureCode.INVALID_INPUT, f"{path.name} cannot be read ({error}). Repeat the stage that writes it."
        ) from None


def identical_rows(nodes: Iterable[RecordedNode]) -> tuple[tuple[str, ...], ...]:
    """Groups of nodes that have one program, or the same scores for the same seeds.

    Equal rows of an ablation say that the component was not removed, or that it does nothing.
    """
    groups: list[list[RecordedNode]] = []
    for node in nodes:
        group = next((group for group in groups if any(_is_identical(node, other) for other in group)), None)
        if group is None:
            groups.append([node])
        else:
            group.append(node)
    return tuple(tuple(node.node_id for node in group) for group in groups if len(group) > 1)


def _is_identical(left: RecordedNode, right: RecordedNode) -> bool:
    is_same_program = bool(left.program_sha256) and left.program_sha256 == right.program_sha256
    return is_same_program or (left.scores == right.scores and left.seeds == right.seeds)
