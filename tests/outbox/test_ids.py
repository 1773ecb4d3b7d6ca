from __future__ import annotations

import os
import random
import threading

from ulid import ULID

from pod_worker.core.clock import ManualClock, SystemClock
from pod_worker.outbox import UlidGenerator


def test_is_a_ulid_of_the_clocks_time():
    clock = ManualClock()
    text = UlidGenerator(clock)()
    assert len(text) == 26
    assert ULID.from_str(text).timestamp == clock.now().timestamp()


def test_ids_sort_in_the_order_made_within_and_across_milliseconds_and_when_the_clock_goes_back():
    clock = ManualClock()
    new_id = UlidGenerator(clock, random.Random(3))
    made = []
    for step in (0.0, 0.0, 0.0, 0.002, -5.0, 0.0, 9.0):
        clock.advance(step)
        made.append(new_id())
    assert made == sorted(set(made))


def test_counting_past_the_low_bits_stays_in_order():
    class Full(random.Random):
        def getrandbits(self, k: int) -> int:
            return (1 << k) - 1

    new_id = UlidGenerator(ManualClock(), Full())
    first, second = new_id(), new_id()
    assert first < second


def test_threads_never_get_the_same_id():
    new_id = UlidGenerator(SystemClock())
    made: list[list[str]] = [[] for _ in range(4)]
    threads = [threading.Thread(target=lambda own=own: own.extend(new_id() for _ in range(5000))) for own in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({text for own in made for text in own}) == 20_000


def test_a_forked_child_draws_its_own_bits():
    clock = ManualClock()  # the same millisecond for ever: only the random bits can differ
    new_id = UlidGenerator(clock)
    new_id()
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write_end, new_id().encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(write_end)
    theirs = os.read(read_end, 100).decode()
    os.close(read_end)
    assert theirs[10:18] != new_id()[10:18]
