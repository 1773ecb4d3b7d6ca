"""Did the database ever take a write of an attempt that no longer held the run?

Each change is judged by the document as it was just before it, and by the server's clock that the change itself
carries: a renewal says when it was made by the end it set (end minus the lease's length).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from chaos.drill import ChaosRecord
from chaos.history import Change, Move, What, seconds
from chaos.report import Row, zero_target_row
from pod_worker.store.collections import RUNS
from pod_worker.store.mongo import Document

_LEASED = frozenset({"SCHEDULED", "RUNNING", "AUTO_VALIDATING"})


def rows(record: ChaosRecord, history: Sequence[Move]) -> Iterator[Row]:
    fenced = sum(move.what in _JUDGES for move in history)
    yield zero_target_row(
        "stale writes accepted",
        [*stale_writes(history, record.lease_seconds), *stale_artifacts(record.changes)],
        "a claim, renewal, checkpoint, end or artifact of an attempt that did not hold the run at that moment",
        of=fenced,
    )
    yield zero_target_row(
        "illegal moves",
        list(illegal_moves(history)),
        "attempts that do not count up, a final state that was left without a reset, a lease left behind",
    )


def stale_writes(history: Sequence[Move], lease_seconds: float) -> Iterator[str]:
    for move in history:
        judge = _JUDGES.get(move.what)
        wrong = judge(move, lease_seconds) if judge else None
        if wrong:
            yield f"{move.run} change {move.place}, attempt {move.attempt}, {move.what}: {wrong}"


def _claim(move: Move, _lease: float) -> str | None:
    before = move.before
    if before.get("status") != "QUEUED" or before.get("leaseToken"):
        return f"the run was {before.get('status')} and held by {before.get('claimedBy')}"
    return None


def _renewal(move: Move, lease: float) -> str | None:
    made = seconds(move.after["leaseExpiresAt"]) - lease
    if move.before.get("leaseToken") != move.after.get("leaseToken") or not move.before.get("leaseToken"):
        return "no attempt held the run"
    over = seconds(move.before["leaseExpiresAt"])
    return f"the lease had been over for {made - over:.3f} s" if made >= over else None


def _checkpoint(move: Move, _lease: float) -> str | None:
    if not move.before.get("leaseToken"):
        return "no attempt held the run"
    wrong = [stage for stage, each in _changed_checkpoints(move) if each.get("attempt") != move.before["attempt"]]
    return f"{wrong} came from another attempt" if wrong else None


def _changed_checkpoints(move: Move) -> list[tuple[str, Document]]:
    before, after = move.before.get("checkpoints") or {}, move.after.get("checkpoints") or {}
    return [(stage, each) for stage, each in after.items() if before.get(stage) != each]


def _settlement(move: Move, _lease: float) -> str | None:
    if move.before.get("leaseToken") != move.after.get("settledToken"):
        return "the token that ended the run did not hold it"
    return None


def _rescue(move: Move, _lease: float) -> str | None:
    early = seconds(move.before["leaseExpiresAt"]) - seconds(move.after["rescuedAt"])
    return f"the lease had {early:.3f} s to go" if early >= 0 else None


def _start(move: Move, _lease: float) -> str | None:
    return None if move.before.get("leaseToken") else "no attempt held the run"


_JUDGES = {
    What.CLAIMED: _claim,
    What.RENEWED: _renewal,
    What.CHECKPOINTED: _checkpoint,
    What.SETTLED: _settlement,
    What.RESCUED: _rescue,
    What.STARTED: _start,
}


def stale_artifacts(changes: Sequence[Change]) -> Iterator[str]:
    """A verified row that appears while its attempt does not hold the run, in the order of the history."""
    holders: dict[str, tuple[int, bool]] = {}
    for change in changes:
        if change.collection == RUNS and change.after is not None:
            holders[change.id] = int(change.after.get("attempt") or 0), bool(change.after.get("leaseToken"))
        elif change.after and _was_verified_now(change):
            attempt, is_held = holders.get(str(change.after.get("runId")), (0, False))
            if change.after.get("attempt") != attempt or not is_held:
                yield f"{change.id} change {change.place}: attempt {change.after.get('attempt')}, run at {attempt}"


def _was_verified_now(change: Change) -> bool:
    after = change.after or {}
    return bool(after.get("verifiedAt")) and not (change.before or {}).get("verifiedAt")


def illegal_moves(history: Sequence[Move]) -> Iterator[str]:
    for move in history:
        before, after = move.before, move.after
        name = f"{move.run} change {move.place} ({move.what})"
        if before and int(after.get("attempt") or 0) - int(before.get("attempt") or 0) not in (0, 1):
            yield f"{name}: attempt {before.get('attempt')} → {after.get('attempt')}"
        if (
            before.get("status") in _FINAL
            and after.get("status") != before.get("status")
            and move.what is not What.RESET
        ):
            yield f"{name}: {before['status']} → {after.get('status')}"
        if bool(after.get("leaseToken")) != (after.get("status") in _LEASED):
            yield f"{name}: status {after.get('status')} with{'' if after.get('leaseToken') else 'out'} a lease"


_FINAL = frozenset({"COMPLETED", "FAILED", "CANCELED"})
