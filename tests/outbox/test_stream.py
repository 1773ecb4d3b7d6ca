from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
import time
from pathlib import Path

import pytest

from pod_worker.outbox.segment_files import FACTS, SAMPLES, segment_name
from pod_worker.outbox.stream import Stream, read_head

BEFORE = b"{"
BIG = 1 << 20


def after(word: str) -> bytes:
    return b'"id":"%b"}\n' % word.encode()


def put(stream: Stream, word: str, lane: int = SAMPLES, numbered: bool = True) -> bool:
    return stream.append(lane, BEFORE, after(word), numbered)


def read(directory: Path) -> list[tuple[int | None, str]]:
    lines = [line for path in sorted(directory.glob("*.ndjson")) for line in path.read_bytes().splitlines()]
    events = [json.loads(line) for line in lines]
    return sorted(((event.get("seq"), event["id"]) for event in events), key=lambda found: found[0] or 0)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "run-r1-1"


def test_seq_counts_over_both_lanes_and_skips_what_has_none(directory):
    stream = Stream(directory, BIG)
    put(stream, "a", FACTS)
    put(stream, "b", SAMPLES)
    put(stream, "beat", SAMPLES, numbered=False)
    put(stream, "c", FACTS)
    assert read(directory) == [(None, "beat"), (1, "a"), (2, "b"), (3, "c")]
    assert [json.loads(line)["id"] for line in (directory / segment_name(FACTS, 1)).read_bytes().splitlines()] == [
        "a",
        "c",
    ]
    stream.close()


def test_segments_close_at_their_size_and_say_so(directory):
    stream = Stream(directory, segment_bytes=100)
    closed = [put(stream, f"{number:030}", FACTS) for number in range(10)]
    assert any(closed)
    assert len(list(directory.glob("facts.*"))) == sum(closed) + 1 - (closed[-1] is True)
    assert [seq for seq, _ in read(directory)] == list(range(1, 11))
    stream.close()


def test_a_second_opener_counts_on_from_the_last_writer(directory):
    first, second = Stream(directory, 200), Stream(directory, 200)
    for number in range(30):
        put(first if number % 3 else second, f"{number:030}", number % 2)
    assert [seq for seq, _ in read(directory)] == list(range(1, 31))
    first.close()
    second.close()


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it runs in the stream that raised it."""


def dying(write_bytes: int | None):
    """A write that dies having written so many bytes of its line (None: all of them)."""

    def write(fd: int, data: bytes) -> int:
        os.write(fd, data[:write_bytes])
        raise Killed

    return write


@pytest.mark.parametrize("written", [0, 1, 9, -1, None], ids=lambda n: f"{n} bytes")
@pytest.mark.parametrize("lane", [FACTS, SAMPLES])
@pytest.mark.parametrize("next_lane", [FACTS, SAMPLES])
@pytest.mark.parametrize("survivor_was", ["open", "not open"])
def test_death_between_line_and_header(directory, written, lane, next_lane, survivor_was):
    survivor = Stream(directory, BIG)
    put(survivor, "before", SAMPLES)
    if survivor_was == "not open":
        survivor.close()
    with pytest.raises(Killed):
        put(Stream(directory, BIG, dying(written)), "dying", lane)
    put(survivor, "next", next_lane)
    put(survivor, "last", FACTS)
    # A whole line stays and keeps its number; a torn one, whose emit never returned, is gone and so is its number.
    whole = ["before", "dying", "next", "last"] if written is None else ["before", "next", "last"]
    assert read(directory) == list(enumerate(whole, start=1))
    survivor.close()


def test_death_just_after_a_segment_closed(directory):
    stream = Stream(directory, segment_bytes=60)
    while not put(stream, "x" * 20):
        pass
    count = len(read(directory))
    stream.close()
    with pytest.raises(Killed):
        put(Stream(directory, 60, dying(None)), "dying")
    survivor = Stream(directory, 60)
    put(survivor, "next")
    assert [seq for seq, _ in read(directory)] == list(range(1, count + 3))
    survivor.close()


@pytest.mark.parametrize("damage", ["header lost", "header zeroed", "segment shortened", "segment lost"])
def test_after_a_power_cut_no_number_is_given_twice(directory, damage):
    stream = Stream(directory, segment_bytes=200)
    for number in range(18):
        put(stream, f"{number:030}", number % 2)
    stream.close()
    current = directory / segment_name(SAMPLES, read_head(directory)[4])
    if damage == "header lost":
        (directory / "head").unlink()
    elif damage == "header zeroed":
        (directory / "head").write_bytes(bytes(64))
    elif damage == "segment shortened":
        os.truncate(current, max(0, current.stat().st_size - 10))
    else:
        current.unlink(missing_ok=True)
    survivor = Stream(directory, 200)
    put(survivor, "next")
    numbers = [seq for seq, _ in read(directory)]
    assert len(numbers) == len(set(numbers))
    assert {word: seq for seq, word in read(directory)}["next"] == max(filter(None, numbers))
    survivor.close()


def test_behind_a_frozen_process_a_line_goes_to_the_overflow_quickly(directory, monkeypatch):
    monkeypatch.setattr("pod_worker.outbox.stream.LOCK_SECONDS", 0.05)
    stream = Stream(directory, BIG)
    put(stream, "before")
    with open(directory / "head") as frozen:
        fcntl.flock(frozen, fcntl.LOCK_EX)
        started = time.monotonic()
        put(stream, "overflow", FACTS)
        put(stream, "overflow too", SAMPLES)  # does not wait again
        assert time.monotonic() - started < 1
    put(stream, "after")
    assert read(directory) == [(None, "overflow"), (None, "overflow too"), (1, "before"), (2, "after")]
    stream.close()


def test_an_emit_inside_an_emit_of_the_same_thread_does_not_deadlock(directory, monkeypatch):
    """As from a signal handler."""
    monkeypatch.setattr("pod_worker.outbox.stream.LOCK_SECONDS", 0.05)
    calls = []

    def write(fd: int, data: bytes) -> int:
        if not calls:
            calls.append(1)
            put(stream, "inner")
        return os.write(fd, data)

    stream = Stream(directory, BIG, write)
    put(stream, "outer")
    assert read(directory) == [(None, "inner"), (1, "outer")]
    stream.close()


def test_a_full_disk_leaves_no_trace_of_the_line(directory):
    room = [10]

    def write(fd: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.write(fd, data[: room[0]])

    stream = Stream(directory, BIG, write)
    for left in (10, 0):
        room[0] = left
        with pytest.raises(OSError, match="No space left"):
            put(stream, "lost")
    room[0] = BIG
    put(stream, "kept")
    assert read(directory) == [(1, "kept")]
    stream.close()


def test_a_full_disk_leaves_no_trace_in_the_overflow(directory, monkeypatch):
    monkeypatch.setattr("pod_worker.outbox.stream.LOCK_SECONDS", 0.02)
    room = [BIG]
    stream = Stream(directory, BIG, lambda fd, data: os.write(fd, data[: room[0]]))
    put(stream, "before")
    with open(directory / "head") as frozen:
        fcntl.flock(frozen, fcntl.LOCK_EX)
        put(stream, "overflow")
        room[0] = 5
        with pytest.raises(OSError, match="No space left"):
            put(stream, "lost")
        room[0] = BIG
        put(stream, "overflow too")
    assert read(directory) == [(None, "overflow"), (None, "overflow too"), (1, "before")]
    stream.close()


def test_a_child_forked_while_the_lock_is_held_waits_for_it_like_any_other(directory):
    children = []

    def write(fd: int, data: bytes) -> int:
        if not children:
            children.append(os.fork())
            if children[0] == 0:
                put(stream, "child")
                os._exit(0)
        return os.write(fd, data)

    stream = Stream(directory, BIG, write)
    put(stream, "parent")
    assert os.waitpid(children[0], 0)[1] == 0
    put(stream, "parent again")
    assert read(directory) == [(1, "parent"), (2, "child"), (3, "parent again")]
    stream.close()


def test_a_removed_folder_is_created_again_by_open_streams(directory):
    old, other = Stream(directory, BIG), Stream(directory, BIG)
    put(old, "a")
    put(other, "b")
    assert not old.remove(lambda: False)
    assert old.remove(lambda: True)
    assert not directory.exists()
    put(other, "c")
    put(old, "d")
    assert read(directory) == [(1, "c"), (2, "d")]
    old.close()
    other.close()


def test_closing_segments_frees_them_without_losing_the_count(directory):
    stream, other = Stream(directory, BIG), Stream(directory, BIG)
    put(stream, "a", FACTS)
    other.close_segments()
    other.close_segments()
    assert (read_head(directory)[2], read_head(directory)[4]) == (2, 1)
    put(stream, "b", FACTS)
    assert read(directory) == [(1, "a"), (2, "b")]
    stream.close()
    other.close()


def test_threads_share_one_count(directory):
    stream = Stream(directory, 5000)

    def work(name: int) -> None:
        for number in range(500):
            put(stream, f"{name}-{number}", number % 2)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [seq for seq, _ in read(directory)] == list(range(1, 2001))
    stream.close()
