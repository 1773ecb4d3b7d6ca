"""What the world wants done to the contents of pods. The host carries it out; the world never looks back."""

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
    """The pod is gone for good: its folder goes too."""


ContainerCommand: TypeAlias = StartContainer | StopContainer
