"""How a claimer behaves among others: in turn while it is alone, spread out while races are lost.

Kept by each claimer for itself, from what it sees; nobody is asked. It chooses which runs to try for and decides
nothing: the claim itself repeats the whole condition.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from pod_worker.core.clock import Clock

BATCH = 16  # runs tried for in one statement: the server goes on to the next where one is gone
CROWDED_PEEK = 128  # runs seen at one look; alone, one batch is enough
STALE_AT = 12  # so many of a batch were gone: what was seen with it is too old to be tried
KEPT_SECONDS = 0.5  # how long a look is good for, and how late a pause or a better run may come, in a crowd
CALM_SECONDS = 5.0  # without a lost race, until a claimer takes the head first again


@dataclass(frozen=True, slots=True)
class Candidate:
    run_id: str
    priority: int | float | None


class Crowd:
    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng
        self._crowded_until = float("-inf")
        self._kept: list[list[str]] = []
        self._kept_until = float("-inf")

    @property
    def peek(self) -> int:
        """How many runs to look at."""
        return CROWDED_PEEK if self._is_crowded() else BATCH

    def choose(self, seen: Sequence[Candidate]) -> list[str]:
        """Which of the runs seen (in the queue's order) to try for in one statement; the rest is kept for later.

        Alone: the head. In a crowd: any of the first ones that are equally urgent, so that many who saw the same
        do not fight for the same.
        """
        if not self._is_crowded():
            return [each.run_id for each in seen[:BATCH]]
        equal = [number for number, each in enumerate(seen) if each.priority == seen[0].priority]
        self._rng.shuffle(equal)
        batches = [sorted(equal[start : start + BATCH]) for start in range(0, len(equal), BATCH)]
        self._kept = [[seen[number].run_id for number in batch] for batch in batches]
        self._kept_until = self._clock.monotonic() + KEPT_SECONDS
        return self.kept()

    def kept(self) -> list[str]:
        """A batch of what an earlier look showed; empty while alone, or when that was too long ago."""
        if not self._kept or self._clock.monotonic() >= self._kept_until:
            return []
        return self._kept.pop()

    def took(self, batch: Sequence[str], run_id: str | None) -> None:
        """What a try for `batch` brought: not its first run means that others were faster."""
        gone = len(batch) if run_id is None else batch.index(run_id)
        if gone:
            self._crowded_until = self._clock.monotonic() + CALM_SECONDS
        if gone >= STALE_AT or run_id is None:
            self._kept = []

    def _is_crowded(self) -> bool:
        return self._clock.monotonic() < self._crowded_until
