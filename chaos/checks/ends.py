"""Did every run end, once, and as it should have?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from chaos.drill import ChaosRecord
from chaos.history import Move, What
from chaos.report import Row, info_row, percentile, zero_target_row
from chaos.workload import PlannedRun

CANCEL_SECONDS = 35.0


def rows(record: ChaosRecord, history: Sequence[Move]) -> Iterator[Row]:
    ends = {run: endings(history, run) for run in record.orders}
    once = [run for run, found in ends.items() if len(found) == 1]
    yield info_row("runs queued", str(len(ends)), _shapes(record))
    yield Row(
        "runs finished once",
        str(len(once)),
        str(len(ends)),
        len(once) == len(ends),
        "exactly one move to COMPLETED, FAILED or CANCELED in the history (an operator's reset starts over)",
        [f"{run} ended {len(found)} times: {found}" for run, found in ends.items() if len(found) != 1],
    )
    lost = sorted(set(record.unfinished) | {run for run, found in ends.items() if not found})
    yield zero_target_row("runs lost", lost, "still not ended when the drain was over")
    yield zero_target_row(
        "wrong endings", list(wrong_endings(record.orders, history)), "ended as its work did not ask for"
    )
    yield from cancels(history)


def _shapes(record: ChaosRecord) -> str:
    counts = Counter(order.shape for order in record.orders.values())
    return ", ".join(f"{count} {shape}" for shape, count in counts.most_common())


def endings(history: Sequence[Move], run: str) -> list[str]:
    """The final states a run reached since it was last reset."""
    found: list[str] = []
    for move in history:
        if move.run == run:
            if move.what is What.RESET:
                found = []
            elif move.ends:
                found.append(str(move.after["status"]))
    return found


def wrong_endings(orders: Mapping[str, PlannedRun], history: Sequence[Move]) -> Iterator[str]:
    canceled = {move.run for move in history if move.what in (What.CANCEL_REQUESTED, What.CANCELED)}
    for move in history:
        order = orders.get(move.run)
        if order is None or not move.ends:
            continue
        status, code = str(move.after["status"]), move.after.get("errorCode")
        may = set(order.ends) | ({"CANCELED"} if move.run in canceled else set())
        # Too many crashes without progress in between is a right end for whatever was shot so often.
        if status not in may and code != "POISON":
            yield f"{move.run} ({order.shape}) ended {status} {code or ''}: {move.after.get('errorMessage')}"


def cancels(history: Sequence[Move]) -> Iterator[Row]:
    """From the cancel request to the confirmed end. A rescue in between is part of the way."""
    asked: dict[str, float] = {}
    took: list[float] = []
    late: list[str] = []
    for move in history:
        if move.what is What.CANCEL_REQUESTED:
            asked.setdefault(move.run, move.at)
        elif move.run in asked and (move.ends or move.what in (What.RESET, What.CLAIMED)):
            if move.what is What.CLAIMED:
                late.append(f"{move.run} was claimed again after a cancel was requested")
            seconds = move.at - asked.pop(move.run)
            if move.ends:
                took.append(seconds)
                late += [f"{move.run}: {seconds:.1f} s"] if seconds > CANCEL_SECONDS else []
    late += [f"{run}: never confirmed" for run in asked]
    value = f"p50 {percentile(took, 0.5):.1f} s, max {max(took):.1f} s, n={len(took)}" if took else "none"
    meaning = "from a person's cancel to the confirmed end of the run, through every fault on the way"
    yield Row("cancels", value, f"≤ {CANCEL_SECONDS:g} s", not late, meaning, late)
