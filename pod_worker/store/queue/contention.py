"""Reduces claim contention: take the head; after a lost race pick randomly.

The random choice is only among runs of equal priority.

Each claimer keeps this for itself, from what it observes. It chooses which runs to try and decides nothing: the
claim repeats the whole condition.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from pod_worker.core.clock import Clock

BATCH = 16  # runs tried in one statement: the server goes on to the next where one is gone
UNCONTENDED_LOOK_AHEAD = 64  # the head and some runs to go on with
CONTENDED_LOOK_AHEAD = 512  # several times as many runs as claimers; a smaller look is needed more often
STALE_AT = 12  # with so many runs of a batch gone, the rest of the look is too old to try
CACHE_SECONDS = 2.0  # how long a look is used under contention, and how late a pause or a better run is seen
CONTENTION_MEMORY_SECONDS = 5.0  # after the last lost race, until a claimer takes the head first again


@dataclass(frozen=True, slots=True)
class QueuedRun:
    run_id: str
    priority: int | float | None


class ClaimContention:
    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng
        self._contended_until = float("-inf")
        self._batches: list[list[str]] = []  # the next one last
        self._cached_until = float("-inf")

    @property
    def look_ahead(self) -> int:
        """How many runs to look at."""
        return CONTENDED_LOOK_AHEAD if self.is_contended else UNCONTENDED_LOOK_AHEAD

    @property
    def is_contended(self) -> bool:
        """Whether a race was lost in the last CONTENTION_MEMORY_SECONDS."""
        return self._clock.monotonic() < self._contended_until

    def observe(self, seen: Sequence[QueuedRun]) -> None:
        """Split a look, in the queue's order, into the batches that `next_batch` returns.

        Uncontended: the head first. Contended: a random choice among the runs of the first one's priority, so
        that claimers that saw the same runs try different ones.
        """
        equals = [index for index, run in enumerate(seen) if run.priority == seen[0].priority]
        head = [] if self.is_contended else list(range(min(len(seen), BATCH)))
        rest = [index for index in equals if index >= len(head)]
        self._rng.shuffle(rest)
        batches = [sorted(rest[start : start + BATCH]) for start in range(0, len(rest), BATCH)]
        ordered = [head, *batches] if head else batches
        self._batches = [[seen[index].run_id for index in batch] for batch in reversed(ordered)]
        self._cached_until = self._clock.monotonic() + CACHE_SECONDS

    def next_batch(self) -> list[str]:
        """The runs to try next in one statement.

        Empty when none are left or the look is too old.
        """
        if not self._batches or self._clock.monotonic() >= self._cached_until:
            return []
        return self._batches.pop()

    def record_result(self, batch: Sequence[str], run_id: str | None) -> None:
        """Note which run of the batch was claimed.

        Not the first one means that other claimers were faster.
        """
        gone = len(batch) if run_id is None else batch.index(run_id)
        if not gone and not self.is_contended:
            self._batches = []  # no other claimer: the next claim looks again
        if gone >= STALE_AT and self.is_contended:
            self._batches = []
        if gone:
            self._contended_until = self._clock.monotonic() + CONTENTION_MEMORY_SECONDS
