"""Whether what many threads saw can be explained by one order of calls that an object could have served alone.

The search is Wing and Gong's ("Testing and Verifying Concurrent Objects", Journal of Parallel and Distributed
Computing 17, 1993): take any call that began before every unexplained call had returned, apply it to the object,
go on; go back where no call fits. As Lowe adds ("Testing for linearizability", Concurrency and Computation:
Practice and Experience 29(4), 2017), a pair of (calls explained, state) that failed once is not tried again. Each
run is checked alone, which is enough: linearizability is local (Herlihy and Wing, "Linearizability: a correctness
condition for concurrent objects", ACM TOPLAS 12(3), 1990).

A call whose outcome is unknown may have taken effect at any time after it began, or never.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

State = TypeVar("State", bound=Hashable)


class Unknown:
    """The result of a call whose reply was lost."""

    def __repr__(self) -> str:
        return "unknown"


UNKNOWN = Unknown()


@dataclass(frozen=True, slots=True)
class Call:
    """`began` and `ended` are places in the one order of all beginnings and ends."""

    process: str
    what: str
    words: tuple[Any, ...]
    result: Any
    began: int
    ended: int | None  # None: unknown

    def __str__(self) -> str:
        end = "?" if self.ended is None else self.ended
        return f"{self.process} {self.what}{self.words} -> {self.result!r} [{self.began}, {end}]"


class Recorder:
    """Histories by object, written by any thread."""

    def __init__(self) -> None:
        self._ticks = itertools.count(1)
        self._lock = threading.Lock()
        self.histories: dict[str, list[Call]] = {}

    def tick(self) -> int:
        return next(self._ticks)

    def add(self, name: str, call: Call) -> None:
        with self._lock:
            self.histories.setdefault(name, []).append(call)

    def record(
        self,
        name: str,
        process: str,
        what: str,
        words: tuple[Any, ...],
        do: Callable[[], Any],
        lost: type[Exception] | tuple[type[Exception], ...],
    ) -> Any:
        """Do it and write down when it began, when it ended, and with what. UNKNOWN where `lost` is raised."""
        began = self.tick()
        try:
            result = do()
        except lost:
            self.add(name, Call(process, what, words, UNKNOWN, began, None))
            return UNKNOWN
        self.add(name, Call(process, what, words, result, began, self.tick()))
        return result


@dataclass(slots=True)
class Explanation(Generic[State]):
    """`order` is None where there is none; then `longest` is how far it went, and `stuck` what fitted nowhere."""

    order: list[Call] | None
    longest: list[Call]
    stuck: list[Call]
    states: int

    def __str__(self) -> str:
        lines = ["no order of these calls explains what was seen", "explained:"]
        lines += [f"  {call}" for call in self.longest]
        return "\n".join([*lines, "and then none of:", *(f"  {call}" for call in self.stuck)])


def explain(
    history: Sequence[Call],
    initial: State,
    step: Callable[[State, Call], State | None],
    is_read: Callable[[Call], bool] = lambda _call: False,
) -> Explanation[State]:
    """`step` gives the state after a call, or None where the object could not have given that result.

    `is_read`: with this result the call changes nothing in any state. Where it fits, no other order need be tried: it
    could be moved here from any later place.
    """
    calls = sorted(history, key=lambda call: call.began)
    needed = sum(1 << place for place, call in enumerate(calls) if call.ended is not None)
    tried: set[tuple[int, State]] = set()
    path: list[int] = []
    longest: list[int] = []

    def options_at(state: State, done: int) -> list[int]:
        options = _minimal(calls, done)
        fits = (place for place in options if is_read(calls[place]) and step(state, calls[place]) is not None)
        read = next(fits, None)
        return options if read is None else [read]

    stack: list[tuple[State, int, list[int]]] = [(initial, 0, options_at(initial, 0))]
    while stack:
        state, done, options = stack[-1]
        if done & needed == needed:
            return Explanation([calls[place] for place in path], [], [], len(tried))
        if not options:
            stack.pop()
            if path:
                path.pop()
            continue
        place = options.pop(0)
        after = step(state, calls[place])
        marked = done | 1 << place
        if after is None or (marked, after) in tried:
            continue
        tried.add((marked, after))
        path.append(place)
        if len(path) > len(longest):
            longest = list(path)
        stack.append((after, marked, options_at(after, marked)))
    explained = sum(1 << place for place in longest)
    stuck = [calls[place] for place in _minimal(calls, explained)]
    return Explanation(None, [calls[place] for place in longest], stuck, len(tried))


def _minimal(calls: Sequence[Call], done: int) -> list[int]:
    """Calls that may come next: begun before the first end among those that are left. Known ones first."""
    left = [place for place in range(len(calls)) if not done >> place & 1]
    first_end = min((end for place in left if (end := calls[place].ended) is not None), default=None)
    options = [place for place in left if first_end is None or calls[place].began < first_end]
    return sorted(options, key=lambda place: (calls[place].ended is None, place))
