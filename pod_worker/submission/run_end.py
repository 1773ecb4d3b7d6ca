"""How a run ended, as the program that waits for it sees it."""

from __future__ import annotations

from dataclasses import dataclass

from pod_worker.core.run import ENDED_WELL, UNATTENDED, RunStatus
from pod_worker.store.mongo import Document

DELETED = "DELETED"  # the status of a run that is gone
# Also those that wait for a person.
ENDED_STATUSES = frozenset(status.value for status in RunStatus if status not in UNATTENDED)
WELL = frozenset(status.value for status in ENDED_WELL)


@dataclass(frozen=True, slots=True)
class RunEnd:
    """`exit_code` is the program's where it has one, else 1; 0 for a success."""

    status: str
    exit_code: int
    message: str

    @property
    def is_ok(self) -> bool:
        return self.exit_code == 0


def has_ended(run: Document) -> bool:
    return run.get("status") in (*ENDED_STATUSES, DELETED)


def end_of(run: Document) -> RunEnd:
    """The end that the document of a run says."""
    status, code = str(run.get("status")), run.get("exitCode")
    message = str(run.get("errorMessage") or run.get("cancelReason") or "")
    if status in WELL:
        return RunEnd(status, 0, message)
    is_code = isinstance(code, int) and 0 < code < 256 and status == "FAILED"
    return RunEnd(status, int(code) if is_code else 1, message)  # type: ignore[arg-type]
