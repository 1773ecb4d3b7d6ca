"""What the world wants done to the contents of pods. The host carries it out; the world never looks back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class StartContents:
    pod_id: str
    life: int


@dataclass(frozen=True, slots=True)
class StopContents:
    pod_id: str
    life: int
    reason: str
    notice_seconds: float
    """Virtual seconds between SIGTERM and SIGKILL."""
    is_final: bool
    """The pod is gone for good: its folder goes too."""


Effect: TypeAlias = StartContents | StopContents
