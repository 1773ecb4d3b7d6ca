"""From a body to lines: gzip, limits, media types."""

from __future__ import annotations

import gzip
import time
import tracemalloc

import pytest

from pod_worker.control.ingest.decode import (
    EVENT_TYPES,
    GZIP_MEMBER_LIMIT,
    LINE_LIMIT,
    LINE_LIMIT_BYTES,
    decompress,
    media_type,
    split_lines,
)
from pod_worker.control.web.body import BODY_LIMIT_BYTES
from pod_worker.control.web.problem import ProblemError


def status(call: object) -> int:
    with pytest.raises(ProblemError) as caught:
        call() if callable(call) else None
    return caught.value.status


def test_gzip_with_several_members() -> None:
    assert decompress(gzip.compress(b"one\n") + gzip.compress(b"two"), "gzip") == b"one\ntwo"


def test_a_gzip_bomb_stops_at_the_limit() -> None:
    bomb = gzip.compress(b"\0" * (64 * 1024 * 1024), 9)
    assert len(bomb) < 100_000
    tracemalloc.start()
    try:
        assert status(lambda: decompress(bomb, "gzip")) == 413
        assert tracemalloc.get_traced_memory()[1] < 4 * BODY_LIMIT_BYTES
    finally:
        tracemalloc.stop()


def test_a_bomb_of_many_members_stops_too() -> None:
    assert status(lambda: decompress(gzip.compress(b"\0" * 1024 * 1024) * 20, "gzip")) == 413


@pytest.mark.parametrize(
    "body",
    [b"not gzip", gzip.compress(b"x" * 1000, mtime=0)[:-12], gzip.compress(b"x", mtime=0) + b"rest"],
    ids=["no gzip", "cut", "something behind"],
)
def test_broken_gzip(body: bytes) -> None:
    assert status(lambda: decompress(body, "gzip")) == 400


def test_another_encoding() -> None:
    assert status(lambda: decompress(b"x", "br")) == 415


def test_lines_keep_their_places() -> None:
    assert split_lines(b"\xef\xbb\xbfa\r\n\n  \nb\n") == [b"a\r", b"", b"  ", b"b", b""]


def test_a_long_line_and_many_lines() -> None:
    assert status(lambda: split_lines(b"x" * (LINE_LIMIT_BYTES + 1))) == 413
    assert status(lambda: split_lines(b"x\n" * (LINE_LIMIT + 1))) == 413
    assert len(split_lines(b"x\n \n\n" * LINE_LIMIT)) == 3 * LINE_LIMIT + 1, "blank ones do not count"


def test_many_empty_gzip_members_cost_little() -> None:
    """8 MiB of them took 50 s of CPU."""
    empty = gzip.compress(b"")
    began = time.process_time()
    assert status(lambda: decompress(empty * (BODY_LIMIT_BYTES // len(empty)), "gzip")) == 413
    assert time.process_time() - began < 5.0


def test_a_member_for_each_line_is_read() -> None:
    lines = [b"%d\n" % number for number in range(GZIP_MEMBER_LIMIT)]
    assert decompress(b"".join(map(gzip.compress, lines)), "gzip") == b"".join(lines)


@pytest.mark.parametrize(
    "given",
    [
        "application/json; charset=utf-8;",
        'application/json; charset="UTF-8"; profile=x',
        "application/json;charset=utf8",
        "Application/JSON ; odata=verbose",
        "application/json; charset=",
        "",
    ],
)
def test_parameters_of_a_media_type(given: str) -> None:
    assert media_type({"content-type": given}, EVENT_TYPES) in ("application/json", "")


@pytest.mark.parametrize(
    "given", ["application/json; charset=latin-1", "text/plain", "application/json2", "; charset=utf-8"]
)
def test_media_types_that_are_not_read(given: str) -> None:
    assert status(lambda: media_type({"content-type": given}, EVENT_TYPES)) == 415
