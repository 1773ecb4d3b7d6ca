"""What the runs themselves noted, step by step, in files outside the product; and the ledgers of the pods' spools.

A line of evidence is written after the step's events were emitted, so an event named there was promised to be
durable. Spools are read as files, by the same reader the product offers to people.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pod_worker.outbox.spool import Spool


@dataclass(frozen=True, slots=True)
class StepRecord:
    """`what`: began (a stage, at `step`), step (this one is done), ended (the stage is done)."""

    boot: float
    pid: int
    run: str
    attempt: int
    stage: str
    what: str
    step: int
    events: tuple[str, ...]
    pod: str = ""


def read_notes(files: Mapping[str, Path]) -> list[StepRecord]:
    """Of all pods (name -> file), in order of time. A torn last line, of a killed process, is left out."""
    notes = [note for pod, path in files.items() if path.exists() for note in _notes(pod, path)]
    return sorted(notes, key=lambda note: note.boot)


def _notes(pod: str, path: Path) -> Iterator[StepRecord]:
    for line in path.read_bytes().split(b"\n")[:-1]:
        fields = json.loads(line)
        yield StepRecord(**{**fields, "events": tuple(fields["events"]), "pod": pod})


@dataclass(frozen=True, slots=True)
class Emitted:
    """One line of a spool. `seq` None: transient (a heartbeat), or set aside behind a frozen lock."""

    id: str
    type: str
    run: str | None
    attempt: int | None
    seq: int | None
    pod: str


def read_spools(pod: str, spool_root: Path) -> tuple[list[Emitted], list[str]]:
    """Every event still in the spools of a pod's workers, and the lines in their dead-letter files."""
    emitted: list[Emitted] = []
    dead: list[str] = []
    for directory in sorted(spool_root.glob("worker-*")):
        spool = Spool.attach(directory)
        try:
            emitted += [_emitted(line, pod) for line in spool.lines()]
        finally:
            spool.close()
        if spool.dead_letter.exists():
            dead += spool.dead_letter.read_text().splitlines()
    return emitted, dead


def _emitted(line: bytes, pod: str) -> Emitted:
    fields = json.loads(line)
    kind, _, name = fields["subject"].partition("/")
    run = name if kind == "run" else None
    return Emitted(fields["id"], fields["type"], run, fields.get("attempt"), fields.get("seq"), pod)
