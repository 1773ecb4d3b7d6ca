"""Was any work done twice that had been recorded, and did two attempts of a run ever live at once?

The runs' own evidence says what was done; the database's history says what was recorded before the next claim; the
process table says who was alive.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from chaos.drill import ChaosRecord
from chaos.evidence import StepRecord
from chaos.history import Move, What
from chaos.journal import Entry
from chaos.report import Row, info_row, zero_target_row
from chaos.sightings import PERIOD_SECONDS

Span = tuple[float, float]
THAW_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """A claim as the history has it. `done` and `steps` are what earlier attempts had recorded by then."""

    run: str
    number: int
    worker: str
    at: float
    done: frozenset[str]
    steps: dict[str, int]


def rows(record: ChaosRecord, history: Sequence[Move]) -> Iterator[Row]:
    attempts = claims(history)
    yield info_row("attempts", str(len(attempts)), "claims in the history; each is one lease of one worker")
    yield zero_target_row(
        "attempts executed twice",
        list(twice(record.notes, attempts)),
        "an attempt that ran in two processes, or that no worker had claimed",
    )
    yield zero_target_row(
        "doubled effects",
        list(doubled(record.notes, attempts)),
        "a stage, or a step of one, done again though it was recorded before the attempt began",
        of=len(record.notes),
    )
    yield from overlaps(record, attempts)


def claims(history: Sequence[Move]) -> dict[tuple[str, int], Attempt]:
    found: dict[tuple[str, int], Attempt] = {}
    for move in history:
        if move.what is What.CLAIMED:
            saved = move.before.get("checkpoints") or {}
            found[move.run, move.attempt] = Attempt(
                run=move.run,
                number=move.attempt,
                worker=str(move.after.get("claimedBy")),
                at=move.at,
                done=frozenset(stage for stage, each in saved.items() if each.get("done")),
                steps={stage: int((each.get("state") or {}).get("step", 0)) for stage, each in saved.items()},
            )
    return found


def twice(notes: Sequence[StepRecord], attempts: dict[tuple[str, int], Attempt]) -> Iterator[str]:
    pids: dict[tuple[str, int], set[int]] = defaultdict(set)
    for note in notes:
        pids[note.run, note.attempt].add(note.pid)
    for key, found in pids.items():
        if key not in attempts:
            yield f"{key[0]}/{key[1]} ran without a claim in the history"
        elif len(found) > 1:
            yield f"{key[0]}/{key[1]} ran in {len(found)} processes"


def doubled(notes: Sequence[StepRecord], attempts: dict[tuple[str, int], Attempt]) -> Iterator[str]:
    for note in notes:
        attempt = attempts.get((note.run, note.attempt))
        if attempt is None:
            continue
        name = f"{note.run}/{note.attempt} {note.stage}"
        if note.stage in attempt.done:
            yield f"{name}: {note.what} {note.step}, but the stage was recorded as done"
        elif note.what == "step" and note.step < attempt.steps.get(note.stage, 0):
            yield f"{name}: step {note.step}, but {attempt.steps[note.stage]} were recorded"


def overlaps(record: ChaosRecord, attempts: dict[tuple[str, int], Attempt]) -> Iterator[Row]:
    thaws = Thaws(record.journal.entries)
    shared = list(shared_spans(record.sightings, attempts))
    late = late_acts(record.notes)
    wrong = [each for each in shared if not thaws.explain(each.pod, each.span)]
    acts = [each for each in late if not thaws.explain(each.note.pod, (each.note.boot, each.note.boot))]
    meaning = (
        f"two attempts of one run alive at once, looked at every {PERIOD_SECONDS:g} s (longest gap "
        f"{record.longest_gap_seconds:.2f} s), or a step noted after the next attempt's first"
    )
    value = f"{sum(each.seconds for each in wrong):.2f} s"
    yield Row("overlap", value, "0 s", not wrong and not acts, meaning, [str(each) for each in [*wrong, *acts]])
    moments = sum(each.seconds for each in shared) - sum(each.seconds for each in wrong)
    yield info_row(
        "alive after a thaw",
        f"{moments:.2f} s, {len(late) - len(acts)} steps",
        "between the thaw of a pod frozen whole past its lease and its guard's kill",
    )


class Thaws:
    """A frozen guard cannot kill its frozen tree: what the tree does between resume and kill is reported,
    and no more than told. The database takes none of it."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._thaws = [each for each in entries if each.what == "heal" and each.kind == "freeze_pod"]

    def explain(self, pod: str, span: Span) -> bool:
        return any(
            thaw.target == pod and thaw.boot - THAW_SECONDS <= span[0] and span[1] <= thaw.boot + THAW_SECONDS
            for thaw in self._thaws
        )


@dataclass(frozen=True, slots=True)
class Shared:
    """A time in which two attempts of a run were alive; `pod` had the older one."""

    run: str
    first: int
    second: int
    pod: str
    span: Span

    @property
    def seconds(self) -> float:
        return self.span[1] - self.span[0]

    def __str__(self) -> str:
        return f"{self.run}: attempts {self.first} and {self.second} for {self.seconds:.2f} s on {self.pod}"


def shared_spans(
    sightings: Mapping[str, Sequence[Span]], attempts: Mapping[tuple[str, int], Attempt]
) -> Iterator[Shared]:
    for run, numbers in _attempts_by_run(sightings).items():
        for first, second in itertools.combinations(numbers, 2):
            claim = attempts.get((run, first))
            pod = claim.worker.partition(":")[0] if claim else "?"
            for a, b in itertools.product(sightings[f"{run}/{first}"], sightings[f"{run}/{second}"]):
                span = max(a[0], b[0]), min(a[1], b[1])
                if span[0] < span[1]:
                    yield Shared(run, first, second, pod, span)


@dataclass(frozen=True, slots=True)
class LateAct:
    note: StepRecord
    newest: int  # the attempt that had begun meanwhile

    def __str__(self) -> str:
        note = self.note
        return f"{note.run}/{note.attempt} did {note.stage} step {note.step} after {self.newest} began"


def late_acts(notes: Sequence[StepRecord]) -> list[LateAct]:
    """Steps of an attempt after a later one had begun to work; exact, where looking at processes is coarse."""
    newest: dict[str, int] = {}
    found: list[LateAct] = []
    for note in sorted(notes, key=lambda each: each.boot):
        if note.attempt < newest.get(note.run, 0):
            found.append(LateAct(note, newest[note.run]))
        newest[note.run] = max(note.attempt, newest.get(note.run, 0))
    return found


def _attempts_by_run(spans: Iterable[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for key in spans:
        run, _, number = key.rpartition("/")
        found[run].append(int(number))
    return {run: sorted(numbers) for run, numbers in found.items()}
