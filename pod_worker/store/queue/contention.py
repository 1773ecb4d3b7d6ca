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
UNCONTENDED_LOOK_AHEAD = 64  # runs seen at one look: the head and something to go on with
CONTENDED_LOOK_AHEAD = 512  # some times as many runs as there may be claimers; a smaller look is needed more often
STALE_AT = 12  # so many of a batch were gone: what was seen with it is too old to be tried
CACHE_SECONDS = 2.0  # how long a look is good for, and how late a pause or a better run may come, in a crowd
CONTENTION_MEMORY_SECONDS = 5.0  # without a lost race, until a claimer takes the head first again


@dataclass(frozen=True, slots=True)
class QueuedRun:
    run_id: str
    priority: int | float | None


class ClaimContention:
    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng
        self._crowded_until = float("-inf")
        self._kept: list[list[str]] = []
        self._kept_until = float("-inf")

    @property
    def look_ahead(self) -> int:
        """How many runs to look at."""
        return CONTENDED_LOOK_AHEAD if self.is_contended else UNCONTENDED_LOOK_AHEAD

    @property
    def is_contended(self) -> bool:
        """Whether races were lost of late."""
        return self._clock.monotonic() < self._crowded_until

    def observe(self, seen: Sequence[QueuedRun]) -> None:
        """What a look showed, in the queue's order; `next_batch` deals it out.

        Alone: the head first. In a crowd: any of those that are as urgent as the first, so that many who saw the
        same do not fight for the same.
        """
        places = [number for number, each in enumerate(seen) if each.priority == seen[0].priority]
        head = [] if self.is_contended else list(range(min(len(seen), BATCH)))
        rest = [number for number in places if number >= len(head)]
        self._rng.shuffle(rest)
        batches = [sorted(rest[start : start + BATCH]) for start in range(0, len(rest), BATCH)]
        dealt = [head, *batches] if head else batches
        self._kept = [[seen[number].run_id for number in batch] for batch in reversed(dealt)]
        self._kept_until = self._clock.monotonic() + CACHE_SECONDS

    def next_batch(self) -> list[str]:
        """The next runs to try for in one statement; empty when all were dealt out, or seen too long ago."""
        if not self._kept or self._clock.monotonic() >= self._kept_until:
            return []
        return self._kept.pop()

    def record_result(self, batch: Sequence[str], run_id: str | None) -> None:
        """What a try for `next_batch` brought: not its first run means that others were faster."""
        gone = len(batch) if run_id is None else batch.index(run_id)
        if not gone and not self.is_contended:
            self._kept = []  # nobody else is here: the next claim looks for itself
        if gone >= STALE_AT and self.is_contended:
            self._kept = []
        if gone:
            self._crowded_until = self._clock.monotonic() + CONTENTION_MEMORY_SECONDS
