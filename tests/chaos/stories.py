"""Histories made by hand, for the checker's own tests: one line of a story is one change of a run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from chaos.history import Change, Move, moves

START = datetime(2026, 1, 1, tzinfo=UTC)
LEASE_SECONDS = 6.0


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


class Story:
    """The document of one run, changed step by step; every step becomes a change of the history."""

    def __init__(self, run: str = "r") -> None:
        self.changes: list[Change] = []
        self._run = run
        self._now: dict[str, Any] = {}

    def then(self, second: float, **fields: Any) -> Story:
        """Change some fields; None removes one."""
        before = dict(self._now)
        after = {name: value for name, value in (before | fields).items() if value is not None}
        place = len(self.changes)
        self.changes.append(Change(place, "runs", self._run, at(second).timestamp(), before or None, after))
        self._now = after
        return self

    def queued(self, second: float = 0) -> Story:
        return self.then(second, status="QUEUED", attempt=0, checkpoints={})

    def claimed(self, second: float, attempt: int, worker: str = "pod-0:w") -> Story:
        return self.then(
            second,
            status="SCHEDULED",
            attempt=attempt,
            leaseToken=f"t{attempt}",
            claimedBy=worker,
            leaseExpiresAt=at(second + LEASE_SECONDS),
        )

    def started(self, second: float) -> Story:
        return self.then(second, status="RUNNING")

    def renewed(self, second: float) -> Story:
        return self.then(second, leaseExpiresAt=at(second + LEASE_SECONDS))

    def saved(self, second: float, stage: str, attempt: int, done: bool = True, step: int = 0) -> Story:
        entry = {"done": done, "attempt": attempt, "state": {"step": step}}
        return self.then(second, checkpoints={**self._now.get("checkpoints", {}), stage: entry})

    def settled(self, second: float, attempt: int, status: str = "COMPLETED", **more: Any) -> Story:
        return self.then(second, status=status, settledToken=f"t{attempt}", **_FREE, **more)

    def rescued(self, second: float, status: str = "QUEUED") -> Story:
        return self.then(second, status=status, rescuedAt=at(second), **_FREE)

    def reset(self, second: float) -> Story:
        return self.then(second, status="QUEUED", attempt=self._now["attempt"] + 1, settledToken=None, **_FREE)

    def cancel_requested(self, second: float) -> Story:
        return self.then(second, cancelRequestedAt=at(second))

    @property
    def moves(self) -> list[Move]:
        return list(moves(self.changes))


_FREE: dict[str, None] = {"leaseToken": None, "leaseExpiresAt": None, "claimedBy": None}
