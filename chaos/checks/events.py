"""Is every event that was promised to be durable in the event log, exactly once?

Three ledgers are held against the log: the lines still in the pods' spools, the ids that the runs noted after
`emit` had returned, and the sequence numbers of each attempt, which have no gap. Where a full disk made a spool
thin samples, the run's log says how many, and so many may be missing.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from chaos.drill import ChaosRecord
from chaos.evidence import Emitted, StepRecord
from chaos.journal import Entry
from chaos.report import Row, info_row, zero_target_row
from pod_worker.core.payload import PAYLOADS
from pod_worker.store.collections import EVENTS
from pod_worker.store.mongo import Mongo

Attempt = tuple[str, int]
# What the outbox says in a run's log when it had to let samples go: thinned from a full spool, or never recorded
# because the disk had no byte left.
_OWNED_UP = re.compile(r"^(\d+) log and metric events (were evicted|could not be recorded)")


def rows(record: ChaosRecord, database: Mongo) -> Iterator[Row]:
    stored = {str(each["_id"]) for each in database[EVENTS].find({}, {"_id": 1})}
    kept = [each for each in record.emitted if not is_transient(each)]
    yield info_row("events emitted", str(len(kept)), f"lines in the pods' spools; {len(stored)} events are stored")
    missing = [
        f"{each.id} {each.type} of {each.run}/{each.attempt} on {each.pod}"
        for each in kept
        if each.id not in stored
    ]
    yield zero_target_row("events missing", missing, "in a spool, not in the event log, after the drain")
    allowed = thinned(database)
    yield zero_target_row(
        "promises broken",
        list(broken_promises(record.notes, stored, allowed, full_disks(record.journal.entries))),
        "noted by a run after emit had returned, not in the event log (samples owned up to as thinned aside)",
        of=sum(len(note.events) for note in record.notes),
    )
    numbers = sequence_numbers(database)
    yield zero_target_row(
        "gaps in sequences",
        list(gaps(numbers, allowed)),
        "sequence numbers missing below an attempt's highest, thinned samples that were owned up to aside",
    )
    yield zero_target_row(
        "numbers given twice", list(repeats(numbers)), "two events of one attempt with one number"
    )
    dead = database["events_dead"].count_documents({}) + len(record.dead_letters)
    offenders = [*record.dead_letters, *(str(each.get("error")) for each in database["events_dead"].find())]
    yield Row("events refused", str(dead), "0", dead == 0, "dead letters, on a pod or in the database", offenders)


def is_transient(emitted: Emitted) -> bool:
    payload = PAYLOADS.get(emitted.type)
    return payload is not None and payload.transient


def thinned(database: Mongo) -> Counter[Attempt]:
    """Per attempt, how many samples its own log says are missing."""
    found: Counter[Attempt] = Counter()
    for each in database[EVENTS].find({"type": "ai.run.log", "data.source": "outbox"}):
        match = _OWNED_UP.match(str(each["data"].get("message")))
        if match:
            found[str(each["runId"]), int(each.get("attempt") or 0)] += int(match[1])
    return found


def broken_promises(
    notes: Sequence[StepRecord],
    stored: Collection[str],
    allowed: Mapping[Attempt, int],
    full: Sequence[FullDisk] = (),
) -> Iterator[str]:
    """A process that dies while its disk is full takes the count of what it dropped with it: no promise there."""
    missing: dict[Attempt, list[str]] = defaultdict(list)
    last: dict[Attempt, StepRecord] = {}
    for note in notes:
        attempt = (note.run, note.attempt)
        last[attempt] = note
        missing[attempt] += [each for each in note.events if each not in stored]
    for attempt, ids in missing.items():
        died_full = any(disk.covers(last[attempt]) for disk in full)
        if len(ids) > allowed.get(attempt, 0) and not died_full:
            yield f"{attempt[0]}/{attempt[1]}: {len(ids)} events, the first {ids[0]}"


@dataclass(frozen=True, slots=True)
class FullDisk:
    """When a pod's spool had no room; boot times."""

    pod: str
    begin: float
    end: float

    def covers(self, note: StepRecord) -> bool:
        return note.pod == self.pod and self.begin <= note.boot <= self.end


def full_disks(entries: Sequence[Entry]) -> list[FullDisk]:
    return [
        FullDisk(entry.target, entry.boot, entry.boot + entry.seconds + 0.5)
        for entry in entries
        if entry.what == "strike" and entry.kind == "fill_spool"
    ]


def sequence_numbers(database: Mongo) -> dict[Attempt, list[int]]:
    found: dict[Attempt, list[int]] = defaultdict(list)
    wanted = {"runId": {"$type": "string"}, "seq": {"$type": "number"}}
    for each in database[EVENTS].find(wanted, {"runId": 1, "attempt": 1, "seq": 1}):
        found[str(each["runId"]), int(each.get("attempt") or 0)].append(int(each["seq"]))
    return found


def gaps(numbers: Mapping[Attempt, Sequence[int]], allowed: Mapping[Attempt, int]) -> Iterator[str]:
    for attempt, found in numbers.items():
        absent = sorted(set(range(1, max(found) + 1)) - set(found))
        if len(absent) > allowed.get(attempt, 0):
            yield f"{attempt[0]}/{attempt[1]}: {len(absent)} of {max(found)} missing, the first {absent[:5]}"


def repeats(numbers: Mapping[Attempt, Sequence[int]]) -> Iterator[str]:
    for attempt, found in numbers.items():
        again = [number for number, count in Counter(found).items() if count > 1]
        if again:
            yield f"{attempt[0]}/{attempt[1]}: {again[:5]}"
