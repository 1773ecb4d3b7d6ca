"""The plan: which fault strikes whom, when and for how long, drawn from a seed before anything starts.

The same seed, length and number of workers give the same plan. What a fault meets (which run a worker holds at
that moment) depends on the machine's timing and is written to the journal instead.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum


class Target(StrEnum):
    POD = "pod"
    CONTROL = "control"
    MONGODB = "mongodb"
    S3 = "s3"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault. `low` and `high` bound its length: `lease` of them in leases, the rest in seconds."""

    name: str
    target: Target
    meaning: str
    low: float = 0.0
    high: float = 0.0
    leases: float = 0.0  # added to the length, in leases


_POD, _CONTROL, _MONGODB, _S3 = Target.POD, Target.CONTROL, Target.MONGODB, Target.S3

KINDS: tuple[Kind, ...] = (
    Kind("kill_worker", _POD, "SIGKILL the worker; a fresh one starts on the pod"),
    Kind("kill_pod", _POD, "SIGKILL worker, guard and run in the same instant"),
    Kind(
        "kill_worker_and_guard",
        _POD,
        "SIGKILL worker and guard together; processes of the run survive",
    ),
    Kind("term_worker", _POD, "SIGTERM: the worker gives its run back and a fresh one starts"),
    Kind("pause_worker", _POD, "SIGSTOP for less than the trusted time: nothing may happen", 0.5, 2.0),
    Kind("freeze_worker", _POD, "SIGSTOP past the lease, then SIGCONT", 1.0, 4.0, 1.0),
    Kind("freeze_pod", _POD, "SIGSTOP worker, guard and run past the lease, then SIGCONT", 1.0, 4.0, 1.0),
    Kind("replace_worker", _POD, "freeze the worker and start a second one beside it", 1.0, 4.0, 1.0),
    Kind("kill_child", _POD, "SIGKILL the run's process"),
    Kind("kill_guard", _POD, "SIGKILL the guard"),
    Kind("freeze_guard", _POD, "SIGSTOP the guard for a while", 1.0, 4.0),
    Kind("fill_spool", _POD, "the spool's disk is full", 2.0, 6.0),
    Kind("skew_clock", _POD, "the worker's wall clock jumps by up to an hour, and back", 3.0, 10.0),
    Kind("cancel_run", _POD, "a person cancels the run on this pod"),
    Kind("reset_run", _POD, "a person resets the run on this pod by force"),
    Kind("db_cut", _POD, "connections to MongoDB are reset and refused", 1.0, 3.0, 1.0),
    Kind("db_hang", _POD, "MongoDB is a black hole", 1.0, 3.0, 1.0),
    Kind("db_delay", _POD, "every answer of MongoDB is late", 2.0, 6.0),
    Kind("db_half_close", _POD, "connections to MongoDB lose one direction", 0.5, 1.0),
    Kind("db_drop_replies", _POD, "MongoDB does what is asked and the answers vanish", 0.5, 3.0),
    Kind("ingest_cut", _POD, "ingest is unreachable", 2.0, 8.0),
    Kind("ingest_hang", _POD, "ingest is a black hole", 2.0, 8.0),
    Kind("ingest_delay", _POD, "every answer of ingest is late", 2.0, 6.0),
    Kind("ingest_half_close", _POD, "connections to ingest lose one direction", 0.5, 1.0),
    Kind("ingest_drop_replies", _POD, "ingest stores and the acknowledgements vanish", 1.0, 5.0),
    Kind(
        "kill_while_offline",
        _POD,
        "cut off from ingest, the worker dies: its events arrive after those of the next attempt",
        8,
        14,
        1.0,
    ),
    Kind("s3_cut", _S3, "the object store is unreachable for the pods", 1.0, 4.0),
    Kind("s3_hang", _S3, "the object store is a black hole for the pods", 1.0, 4.0),
    Kind("s3_delay", _S3, "every answer of the object store is late", 2.0, 6.0),
    Kind("s3_drop_replies", _S3, "uploads arrive and the answers vanish", 1.0, 4.0),
    Kind("kill_s3", _S3, "SIGKILL the object store; it starts again", 1.0, 3.0),
    Kind("kill_control", _CONTROL, "SIGKILL a control plane; it starts again", 1.0, 4.0),
    Kind("freeze_control", _CONTROL, "SIGSTOP a control plane", 2.0, 6.0),
    Kind("control_db_cut", _CONTROL, "a control plane cannot reach MongoDB", 2.0, 5.0),
    Kind("control_db_drop_replies", _CONTROL, "a control plane's answers from MongoDB vanish", 0.5, 2.0),
    Kind("step_down", _MONGODB, "the primary steps down"),
    Kind("kill_primary", _MONGODB, "SIGKILL the primary; it starts again", 1.0, 4.0),
    Kind("freeze_primary", _MONGODB, "SIGSTOP the primary until another is elected", 3.0, 5.0),
)
BY_NAME = {kind.name: kind for kind in KINDS}
# Names of earlier plans.
ALIASES = {"behead_pod": "kill_worker_and_guard", "die_offline": "kill_while_offline"}

# How long one target is left alone after a fault of its own: the set must find a majority again.
REST_SECONDS = {Target.POD: 0.0, Target.CONTROL: 4.0, Target.S3: 3.0, Target.MONGODB: 8.0}


def find_kind(name: str) -> Kind:
    """Raises ValueError that lists the kinds."""
    found = BY_NAME.get(ALIASES.get(name, name))
    if found is None:
        raise ValueError(f"unknown fault {name!r}; there are {', '.join(BY_NAME)}")
    return found


@dataclass(frozen=True, slots=True)
class Planned:
    at: float  # seconds after the start
    kind: str
    target: int  # which pod, control plane, …; 0 where there is one
    seconds: float  # how long it lasts; 0 for a blow
    size: float  # 0..1, for faults that come in sizes


def make_plan(
    seed: int,
    seconds: float,
    *,
    pods: int,
    controls: int,
    every_seconds: float,
    lease_seconds: float,
    kinds: Sequence[Kind] = KINDS,
) -> list[Planned]:
    """Faults for `seconds`, one every `every_seconds` on average. Every kind comes before any comes again."""
    rng = random.Random(f"plan:{seed}")
    counts = {_POD: pods, _CONTROL: controls, _MONGODB: 1, _S3: 1}
    busy: dict[tuple[Target, int], float] = {}
    plan: list[Planned] = []
    deck: list[Kind] = []
    at = 0.0
    while (at := at + rng.uniform(0.3, 1.7) * every_seconds) < seconds:
        if not deck:
            deck = list(kinds)
            rng.shuffle(deck)
        chosen = _first_free(deck, busy, counts, at, rng)
        if chosen is None:
            continue
        kind, target = chosen
        deck.remove(kind)
        length = rng.uniform(kind.low, kind.high) + kind.leases * lease_seconds
        plan.append(Planned(round(at, 2), kind.name, target, round(length, 2), round(rng.random(), 3)))
        busy[kind.target, target] = at + length + REST_SECONDS[kind.target]
    return plan


def _first_free(
    deck: list[Kind],
    busy: dict[tuple[Target, int], float],
    counts: dict[Target, int],
    at: float,
    rng: random.Random,
) -> tuple[Kind, int] | None:
    """The next kind whose target is at rest, so that faults of one part do not hide each other."""
    for kind in deck:
        free = [n for n in range(counts[kind.target]) if busy.get((kind.target, n), 0.0) <= at]
        if free:
            return kind, rng.choice(free)
    return None


def encode(plan: Sequence[Planned]) -> str:
    return "".join(json.dumps(asdict(each)) + "\n" for each in plan)


def decode(text: str) -> list[Planned]:
    """The plan that `encode` wrote. Raises ValueError on a kind that there is not."""
    plan = [Planned(**json.loads(line)) for line in text.splitlines() if line.strip()]
    return [replace(each, kind=find_kind(each.kind).name) for each in plan]
