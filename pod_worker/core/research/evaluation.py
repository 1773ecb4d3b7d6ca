"""The score of a node's result files, and the refusal to score them.

`tasks/` has the evaluators. `search/` only knows these types and the port in `search/ports.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class RefusalKind(StrEnum):
    """Why result files were not scored."""

    MISSING = "missing"
    STALE = "stale"  # older than the execution that should have written it
    SCHEMA = "schema"  # wrong arrays, shapes, types or field names
    NOT_FINITE = "not_finite"
    TOO_LARGE = "too_large"
    LINK = "link"  # a symbolic or hard link
    NOT_REGULAR = "not_regular"  # a folder, device, pipe or socket
    UNREADABLE = "unreadable"  # damaged, pickled or in another format
    FORGED = "forged"  # equal to something that the program cannot know


class ResultRefusedError(Exception):
    """The evaluator did not score a node's result files."""

    def __init__(self, kind: RefusalKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeScore:
    """The scores of one execution.

    `search` may be shown to the model. `hidden` is measured on rows whose labels no program and no model sees; it
    is None where the task has no evaluator, and `search` is then what the program reported.
    """

    search: float
    hidden: float | None = None
    is_self_reported: bool = False
