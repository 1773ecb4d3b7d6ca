"""A stage is a named step of a pipeline: a function from a context to a summary.

This module holds the names on the wire, their titles, and the interface that a stage receives. `stages/` has the
stages, `worker.child` runs them one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pod_worker.core.model_access import ModelAccess
from pod_worker.core.run import Json, Run
from pod_worker.core.stop_signal import StopSignal as StopSignal
from pod_worker.core.stop_signal import TimedStopSignal

if TYPE_CHECKING:
    from pod_worker.core.execution import CodeRunner

    # commands that only read have no use for every payload's class
    from pod_worker.core.payload import Payload

# The one table from the wire's stage names to words.
STAGE_TITLES: dict[str, str] = {
    "Stage_1": "preliminary investigation",
    "Stage_2": "baseline tuning",
    "Stage_3": "research agenda",
    "Stage_4": "ablation studies",
    "plots": "plots",
    "paper": "paper",
    "validation": "validation",
    "ideation": "ideation",
    "training": "training",
    "command": "command",
    "ai_scientist": "AI-Scientist-v2",
}


def stage_title(stage: str) -> str:
    """The words for a stage; a name that is not in the table stands for itself."""
    return STAGE_TITLES.get(stage, stage)


# The role of an artifact that is kept only while the saved state of its run names it. Once the state names a newer
# one instead, the control plane deletes it.
ROTATED_ROLE = "rotated"


class EventEmitter(Protocol):
    def emit(self, payload: Payload) -> str:
        """The event's id, once it is on this machine's disk.

        Never waits for a network.
        """


class ArtifactKind(StrEnum):
    PLOT = "plot"
    FIGURE = "figure"
    PAPER = "paper"
    CODE = "code"
    LOG = "log"
    ADAPTER = "adapter"
    MODEL_CARD = "model_card"
    REPORT = "report"
    CHECKPOINT = "checkpoint"
    DATA = "data"
    ARCHIVE = "archive"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that left the pod.

    `key` is `runs/<run>/<attempt>/<name>`; `sha256` is lower-case hex.
    """

    key: str
    bytes: int
    sha256: str
    kind: str
    content_type: str
    role: str | None = None


class Artifacts(Protocol):
    def publish(
        self, path: Path, kind: ArtifactKind, name: str | None = None, role: str | None = None
    ) -> Artifact:
        """Upload and register one file; returns when it is verified in the store.

        Raises RunError(STORAGE) when the store does not accept it. Publishing the same bytes again (after a
        crash) finds the ledger's entry and uploads nothing.
        """

    def fetch(self, key: str, target: Path, sha256: str | None = None) -> Path:
        """Download an artifact of this run to `target` (atomic).

        Verifies the hash where it is given.
        """


class Context(Protocol):
    """The interface of a stage to its run.

    `work_dir` is the run's own folder on this pod. It outlives an attempt, so a stage may find its earlier files
    there, but must not rely on them: the next attempt may run on another pod.
    """

    @property
    def run(self) -> Run: ...
    @property
    def stage(self) -> str: ...
    @property
    def work_dir(self) -> Path: ...
    @property
    def artifacts(self) -> Artifacts: ...
    @property
    def stop(self) -> TimedStopSignal: ...
    @property
    def model_access(self) -> ModelAccess | None:
        """How to reach language models; None for a pipeline that does not need them."""

    @property
    def job_secrets(self) -> Mapping[str, str]:
        """The secrets that the run names, by name; for its command alone."""

    def fetch_workdir(self, manifest: str, target: Path) -> None:
        """Make `target` the exact copy of the workdir that the run's parameters name.

        Raises RunError(STORAGE).
        """

    def fetch_data(self, key: str, folder: Path) -> Path:
        """Download an artifact of this run, or a data set, to below `folder`.

        Returns its file or folder.
        `data/…/NAME/` is a folder, `data/…/NAME/PATH` a file or folder in it. Raises RunError(INVALID_INPUT) for
        one that is not there, and what fetching raises.
        """

    def open_sandbox(self) -> CodeRunner:
        """The sandbox for programs that models wrote; one for all stages of an attempt.

        Raises RunError(ENVIRONMENT) when this machine cannot protect itself from them.
        """

    def emit(self, payload: Payload) -> str: ...

    def log(self, message: str, level: str = "info", **fields: Json) -> None: ...

    def checkpoint(self, state: dict[str, Json]) -> None:
        """Record how far this stage has come, for `saved_state` of the next attempt.

        Keys and positions, not data: at most `CHECKPOINT_STATE_LIMIT_BYTES` as JSON.
        """

    @property
    def saved_state(self) -> dict[str, Json]:
        """The state of this stage's last `checkpoint`, of any attempt; empty at first."""


@dataclass(frozen=True, slots=True)
class Stage:
    name: str  # the wire's name
    run: Callable[[Context], dict[str, Json]]  # returns the stage's summary; raises to fail
