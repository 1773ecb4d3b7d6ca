"""Bodies: a limit that holds before memory is spent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from pod_worker.control.web.body import BODY_LIMIT_BYTES, read_body
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


def test_a_length_of_thousands_of_digits_is_too_large() -> None:
    assert status(lambda: asyncio.run(read_body(parts(), {"content-length": "9" * 5000}))) == 413
