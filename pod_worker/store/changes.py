"""What an event changes in the views, as data: facts, points and moves, one type for each order-proof rule.

Made by `control.projections`, applied by `store.views`; structs, because there are many of them a second. Field
paths are dotted and snake_case, `versioned` spells them for the database; a word that comes from the wire (a
stage's or a metric's name) is quoted with `named`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import TypeAlias

import msgspec

from pod_worker.core.event import Version
from pod_worker.core.run import Json, RunStatus

_QUOTED = str.maketrans({"%": "%25", ".": "%2E", "$": "%24", "\0": "%00"})


class View(StrEnum):
    RUN = "run"
    STAGE = "stage"
    VALIDATION = "validation"
    ARTIFACT = "artifact"


class Nested(dict[str, Json]):
    """A value whose keys are ours and spelled like paths; any other dict is written as it came."""


class Facts(msgspec.Struct, frozen=True):
    """Fields of one document that are always written together, and only over an older version of themselves.

    `key` names the row within the run ("" for the run itself). None means absent.
    """

    view: View
    key: str
    group: str
    fields: Mapping[str, Json]


class Point(msgspec.Struct, frozen=True):
    """One point of a metric's series; a later one for the same step (or moment) takes its place."""

    stage: str
    name: str
    value: float
    time: datetime
    step: int | None = None
    epoch: float | None = None
    unit: str | None = None
    is_latest_shown: bool = True  # also as the run's latest value of that metric


class Move(msgspec.Struct, frozen=True):
    """A step of the run's status. `path` is what the run must have gone through, the new status last.

    `groups` are facts that go with it: kept if the run takes the step, or took it already in this attempt.
    """

    path: tuple[RunStatus, ...]
    groups: Mapping[str, Mapping[str, Json]] = {}


Change: TypeAlias = Facts | Point | Move


class Stamped(msgspec.Struct, frozen=True):
    """A change, the run it is about, and who wrote it."""

    run_id: str
    attempt: int
    version: Version
    change: Change


@lru_cache(maxsize=10_000)
def named(word: str) -> str:
    """A name from the wire as one segment of a field path."""
    return "=" + word.translate(_QUOTED)


def unquoted(segment: str) -> str:
    """The wire's name again, from the database's field name."""
    for letter, code in (("\0", "%00"), ("$", "%24"), (".", "%2E"), ("%", "%25")):
        segment = segment.replace(code, letter)
    return segment
