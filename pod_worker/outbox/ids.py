"""ULIDs fast enough for the emit path.

48 bits of milliseconds, then 80 random bits that count up within one.

Two processes draw different random bits, so ids do not collide; a forked child draws its own. Ids of different
processes are not ordered: `seq` is for that.
"""

from __future__ import annotations

import os
import random
import threading

from pod_worker.core.clock import Clock

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford base 32, https://github.com/ulid/spec
_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]
_LOW_BITS = 40
_LOW_LIMIT = 1 << _LOW_BITS


def _base32(number: int, pairs: int) -> str:
    return "".join(_PAIRS[(number >> (10 * index)) & 1023] for index in reversed(range(pairs)))


class UlidGenerator:
    """Callable giving a new 26-character ULID.

    Ids of one instance sort in the order they were made.
    """

    def __init__(self, clock: Clock, rng: random.Random | None = None) -> None:
        self._clock = clock
        self._rng = rng or random.SystemRandom()
        self._mutex = threading.Lock()
        self._pid = os.getpid()
        self._millisecond = -1
        self._head = ""
        self._low = 0

    def __call__(self) -> str:
        millisecond = int(self._clock.now().timestamp() * 1000)
        if os.getpid() != self._pid:
            self._start_over()
        with self._mutex:
            if millisecond > self._millisecond:
                self._new_millisecond(millisecond)
            else:  # same millisecond, or the clock went back: count on
                self._low += 1
                if self._low == _LOW_LIMIT:
                    self._new_millisecond(self._millisecond + 1)
            low = self._low
            return (
                f"{self._head}{_PAIRS[low >> 30]}{_PAIRS[low >> 20 & 1023]}"
                f"{_PAIRS[low >> 10 & 1023]}{_PAIRS[low & 1023]}"
            )

    def _new_millisecond(self, millisecond: int) -> None:
        self._millisecond = millisecond
        drawn = self._rng.getrandbits(80)
        # 48 bits in ten characters leave two zero bits in front; the 40 high random bits fill eight more.
        self._head = _base32(millisecond, 5) + _base32(drawn >> _LOW_BITS, 4)
        self._low = drawn & (_LOW_LIMIT - 1)

    def _start_over(self) -> None:
        """Start a new counter after a fork, or both processes would make the same ids."""
        self._mutex = threading.Lock()
        self._pid = os.getpid()
        self._rng = random.SystemRandom()
        self._millisecond = -1
