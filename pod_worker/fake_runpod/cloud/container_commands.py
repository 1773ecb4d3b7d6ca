"""Commands of the simulator to the containers of pods.

The runtime executes them and returns no result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class StartContainer:
    pod_id: str
    generation: int


@dataclass(frozen=True, slots=True)
class StopContainer:
    pod_id: str
    generation: int
    reason: str
    notice_seconds: float
    """Virtual seconds between SIGTERM and SIGKILL."""
    remove_data: bool
    """The pod is deleted: remove its folder too."""


ContainerCommand: TypeAlias = StartContainer | StopContainer
