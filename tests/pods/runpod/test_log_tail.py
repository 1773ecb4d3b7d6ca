"""Logs over server-sent events: split anywhere, resumed without loss, never repeated."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import pairwise

import pytest

from pod_worker.core.clock import ManualClock
from pod_worker.pods.catalogue import LogLine
from pod_worker.pods.errors import PodNotFoundError, UnreachableError
from pod_worker.pods.runpod import v2
from pod_worker.pods.runpod.event_stream import StreamEvent, events
from pod_worker.pods.runpod.log_tail import MAX_FAILURES, follow_log
from pod_worker.pods.runpod.transport import Transport
from pod_worker.pods.runpod.v2 import RunpodV2
from tests.pods.scripted_server import Answer, ScriptedServer


def test_events_are_parsed_and_a_cut_one_is_dropped() -> None:
    text = ": hello\nid: 1\ndata: a\n\nid:2\ndata: b\ndata:  c\n\nevent: x\n\nid: 3\ndata: cut"
    assert list(events(text.split("\n"))) == [StreamEvent("1", "a"), StreamEvent("2", "b\n c")]


def lines(*marks: str) -> list[LogLine]:
    """ "3a" is the line "a" at timestamp 3."""
    return [LogLine("container", mark[1:], mark[0]) for mark in marks]


ALL = lines("1a", "1b", "2c", "2c", "2d", "3e", "4f", "4g", "5h")


class BreakingSource:
    """Serves from the cursor's timestamp on (so it repeats lines that share it) and breaks off at random."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.breaks = 0

    def open(self, cursor: str) -> Iterator[LogLine]:
        pause = [line for line in ALL if line.at >= cursor]
        stop = self.rng.randrange(len(pause) + 1)
        yield from pause[:stop]
        if stop < len(pause):
            self.breaks += 1
            raise UnreachableError("broken", sent=True)


@pytest.mark.parametrize("seed", range(200))
def test_no_line_is_lost_or_doubled_across_breaks(seed: int) -> None:
    source = BreakingSource(random.Random(seed))
    try:
        lines = list(follow_log(source.open, should_reopen=lambda: False, pause=lambda n: None))
    except UnreachableError:
        assert source.breaks >= MAX_FAILURES
        return
    assert lines == ALL


def test_a_source_that_only_breaks_is_given_up() -> None:
    rests: list[int] = []

    def broken(cursor: str) -> Iterator[LogLine]:
        raise UnreachableError("down", sent=True)
        yield

    with pytest.raises(UnreachableError):
        list(follow_log(broken, should_reopen=lambda: True, pause=rests.append))
    assert rests == list(range(1, MAX_FAILURES))


def frame(line: LogLine) -> bytes:
    body = json.dumps({"source": line.source, "line": line.line, "ts": line.at})
    return f"id: {line.at}\ndata: {body}\n\n".encode()


@pytest.fixture
def cloud(server: ScriptedServer) -> Iterator[RunpodV2]:
    clock = ManualClock()
    cloud = RunpodV2(Transport(server.url, "k", clock=clock, sleep=clock.advance, rng=random.Random(1)))
    yield cloud
    cloud.close()


def test_the_backlog_ends_when_the_stream_goes_quiet(
    server: ScriptedServer, cloud: RunpodV2, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(v2, "BACKLOG_QUIET_SECONDS", 0.2)
    server.script = [Answer(raw=b"".join(map(frame, ALL)), stay_open=True)]
    assert list(cloud.logs("p1", tail=50)) == ALL
    (asked,) = server.asked
    assert asked.path == "/v2/pods/p1/logs"
    assert asked.params == {"tail": "50"}
    assert asked.headers["Accept"] == "text/event-stream"


def test_following_resumes_at_the_last_line_and_ends_with_the_pod(server: ScriptedServer, cloud: RunpodV2) -> None:
    raw = b"".join(map(frame, ALL))
    streams = [raw[:150], raw[:0], b"".join(frame(line) for line in ALL if line.at >= "2")]
    alive = iter([True, True, False])
    server.routes["GET", "/v2/pods/p1/logs"] = lambda asked: Answer(raw=streams.pop(0))
    server.routes["GET", "/v2/pods/p1"] = lambda asked: Answer(
        200, {"id": "p1", "status": "RUNNING" if next(alive) else "TERMINATED"}
    )
    assert list(cloud.logs("p1", follow=True)) == ALL
    cursors = [asked.headers.get("Last-Event-ID") for asked in server.asked if asked.path.endswith("logs")]
    assert cursors[0] is None
    assert all((a or "") <= (b or "") for a, b in pairwise(cursors))
    assert cursors[-1] is not None


def test_since_is_sent_as_the_cursor(server: ScriptedServer, cloud: RunpodV2) -> None:
    server.script = [Answer(raw=frame(ALL[-1]))]
    assert list(cloud.logs("p1", since="4")) == [ALL[-1]]
    assert server.asked[0].headers["Last-Event-ID"] == "4"


def test_a_refused_stream_is_a_typed_error(server: ScriptedServer, cloud: RunpodV2) -> None:
    server.script = [Answer(404, {"title": "Not Found", "status": 404, "detail": "no such pod"})]
    with pytest.raises(PodNotFoundError, match="no such pod"):
        list(cloud.logs("p1"))
