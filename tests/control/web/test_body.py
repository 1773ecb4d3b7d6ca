"""Bodies: limits that hold before memory is spent."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
from collections.abc import AsyncIterator

import pytest

from pod_worker.control.web.body import (
    BODY_LIMIT_BYTES,
    LINE_LIMIT,
    LINE_LIMIT_BYTES,
    decoded,
    lines_of,
    read_body,
)
from pod_worker.control.web.problem import ProblemError


async def parts(*given: bytes) -> AsyncIterator[bytes]:
    for each in given:
        yield each


def status(call: object) -> int:
    with pytest.raises(ProblemError) as caught:
        call() if callable(call) else None
    return caught.value.status


def test_a_body_is_read_whole() -> None:
    assert asyncio.run(read_body(parts(b"a", b"b"), {"content-length": "2"})) == b"ab"


def test_a_body_that_says_it_is_too_large_is_not_read() -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    headers = {"content-length": str(BODY_LIMIT_BYTES + 1)}
    assert status(lambda: asyncio.run(read_body(never(), headers))) == 413


def test_a_body_that_lies_about_its_length_stops_at_the_limit() -> None:
    chunk = b"x" * (BODY_LIMIT_BYTES // 2 + 1)
    assert status(lambda: asyncio.run(read_body(parts(chunk, chunk), {"content-length": "3"}))) == 413


def test_gzip_with_several_members() -> None:
    assert decoded(gzip.compress(b"one\n") + gzip.compress(b"two"), "gzip") == b"one\ntwo"


def test_a_gzip_bomb_stops_at_the_limit() -> None:
    bomb = gzip.compress(b"\0" * (64 * 1024 * 1024), 9)
    assert len(bomb) < 100_000
    tracemalloc.start()
    try:
        assert status(lambda: decoded(bomb, "gzip")) == 413
        assert tracemalloc.get_traced_memory()[1] < 4 * BODY_LIMIT_BYTES
    finally:
        tracemalloc.stop()


def test_a_bomb_of_many_members_stops_too() -> None:
    assert status(lambda: decoded(gzip.compress(b"\0" * 1024 * 1024) * 20, "gzip")) == 413


@pytest.mark.parametrize(
    "body",
    [b"not gzip", gzip.compress(b"x" * 1000)[:-12], gzip.compress(b"x") + b"rest"],
    ids=["no gzip", "cut", "something behind"],
)
def test_broken_gzip(body: bytes) -> None:
    assert status(lambda: decoded(body, "gzip")) == 400


def test_another_encoding() -> None:
    assert status(lambda: decoded(b"x", "br")) == 415


def test_lines_keep_their_places() -> None:
    assert lines_of(b"\xef\xbb\xbfa\r\n\n  \nb\n") == [b"a\r", b"", b"  ", b"b", b""]


def test_a_long_line_and_many_lines() -> None:
    assert status(lambda: lines_of(b"x" * (LINE_LIMIT_BYTES + 1))) == 413
    assert status(lambda: lines_of(b"x\n" * (LINE_LIMIT + 1))) == 413
    assert len(lines_of(b"x\n \n\n" * LINE_LIMIT)) == 3 * LINE_LIMIT + 1, "blank ones do not count"
