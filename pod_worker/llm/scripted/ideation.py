"""Scripted replies for the operations of ideation."""

from __future__ import annotations

from collections.abc import Callable

from pod_worker.core.completion import CompletionRequest
from pod_worker.core.run import Json

REPLIES: dict[str, Callable[[CompletionRequest], Json]] = {}
