"""How soon are the runs of dead workers claimable again, was any live one robbed, and what did crashes cost?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chaos.checks.effects import Attempt, claims
from chaos.drill import ChaosRecord
from chaos.evidence import StepRecord
from chaos.history import Move, What, seconds
from chaos.journal import Entry
from chaos.plan import BY_NAME, Target
from chaos.report import Row, info_row, percentile, zero_target_row

SLACK_SECONDS = 15.0
# Faults that can keep a worker from renewing: its processes, its way to MongoDB, MongoDB itself.
_ON_POD = frozenset(
    {
        "kill_worker",
        "kill_pod",
        "kill_worker_and_guard",
        "kill_while_offline",
        "term_worker",
        "pause_worker",
        "freeze_worker",
        "freeze_pod",
        "replace_worker",
        "fill_spool",
        "db_cut",
        "db_hang",
        "db_delay",
        "db_half_close",
        "db_drop_replies",
    }
)


@dataclass(frozen=True, slots=True)
class Rescue:
    run: str
    attempt: int
    pod: str
    renewed_at: float  # the last time the lease was granted or renewed, by the server's clock
    at: float

    @property
    def seconds(self) -> float:
        return self.at - self.renewed_at


def rows(record: ChaosRecord, history: Sequence[Move]) -> Iterator[Row]:
    found = rescues(history, record.lease_seconds)
    limit = record.lease_seconds + SLACK_SECONDS
    times = [each.seconds for each in found]
    value = (
        f"p50 {percentile(times, 0.5):.1f} s, p99 {percentile(times, 0.99):.1f} s, n={len(found)}"
        if found
        else "none"
    )
    yield Row(
        "rescue time",
        value,
        f"p99 ≤ {limit:g} s",
        not times or percentile(times, 0.99) <= limit,
        "from a dead worker's last renewal to the run being claimable again (its death came later still)",
        [f"{each.run}/{each.attempt}: {each.seconds:.1f} s" for each in found if each.seconds > limit],
    )
    yield zero_target_row(
        "false rescues",
        [
            f"{each.run}/{each.attempt} on {each.pod}: rescued {each.seconds:.1f} s after its last renewal"
            for each in found
            if each.seconds < record.lease_seconds
            or not is_explained(each, record.journal.entries, record.lease_seconds)
        ],
        "a run taken before its lease was over, or from a worker that no fault had kept from renewing",
        of=len(found),
    )
    yield _cost(record, history)


def rescues(history: Sequence[Move], lease_seconds: float) -> list[Rescue]:
    found = []
    for move in history:
        if move.what is What.RESCUED:
            renewed_at = seconds(move.before["leaseExpiresAt"]) - lease_seconds
            pod = str(move.before.get("claimedBy", "?")).partition(":")[0]
            found.append(Rescue(move.run, move.attempt, pod, renewed_at, seconds(move.after["rescuedAt"])))
    return found


def is_explained(rescue: Rescue, entries: Sequence[Entry], lease_seconds: float) -> bool:
    """Some fault on this worker, its way to MongoDB or MongoDB itself fell into the life of the last lease."""
    begin, end = rescue.renewed_at - 1.0, rescue.renewed_at + lease_seconds
    for index, entry in enumerate(entries):
        if not _concerns(entry, rescue.pod):
            continue
        over = entry.wall + entry.seconds + (10.0 if entry.target == Target.MONGODB.value else 2.0)
        if entry.what == "strike" and entry.wall <= end and over >= begin:
            return True
        if entry.what == "worker ended" and begin - 2 <= entry.wall <= end and index >= 0:
            return True
    return False


def _concerns(entry: Entry, pod: str) -> bool:
    if entry.what == "worker ended":
        return entry.target == pod
    if entry.what != "strike":
        return False
    if BY_NAME[entry.kind].target is Target.MONGODB:
        return True
    return entry.target == pod and entry.kind in _ON_POD


def _cost(record: ChaosRecord, history: Sequence[Move]) -> Row:
    lost = lost_seconds(record.notes, history)
    value = f"p50 {percentile(lost, 0.5):.2f} s, max {max(lost):.2f} s, n={len(lost)}" if lost else "none"
    meaning = "work since the last recorded checkpoint that a crash threw away and the next attempt did again"
    return info_row("GPU-seconds lost per crash", value, meaning)


def lost_seconds(notes: Sequence[StepRecord], history: Sequence[Move]) -> list[float]:
    """Per attempt that was followed by another: time between its last kept step and its last step."""
    attempts = claims(history)
    by_attempt: dict[tuple[str, int], list[StepRecord]] = {}
    for note in notes:
        by_attempt.setdefault((note.run, note.attempt), []).append(note)
    lost = []
    for (run, number), done in by_attempt.items():
        successor = next((attempts[run, n] for n in range(number + 1, number + 50) if (run, n) in attempts), None)
        if successor is not None:
            began = by_attempt.get((run, successor.number), [done[-1]])[0].boot
            lost.append(_lost([note for note in done if note.boot <= began], successor))
    return lost


def _lost(done: list[StepRecord], successor: Attempt) -> float:
    kept = [
        note.boot
        for note in done
        if note.stage in successor.done or note.step < successor.steps.get(note.stage, 0)
    ]
    return max(0.0, done[-1].boot - (kept[-1] if kept else done[0].boot)) if done else 0.0
