from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from pod_worker.fake_runpod.cloud.logs import KEEP_LINES, LINE_LIMIT, PodLog
from tests.fake_runpod.api_client import Api


def say(api: Api, pod_id: str, *lines: str, source: str = "container") -> None:
    api.post(f"/_fake/pods/{pod_id}/logs", json={"lines": lines, "source": source}).raise_for_status()


@contextmanager
def stream(
    api: Api, pod_id: str, *, headers: dict[str, str] | None = None, **query: Any
) -> Iterator[Iterator[Any]]:
    """Yields an iterator of (event id, data) that blocks until the next event."""
    request = api.stream("GET", f"/v2/pods/{pod_id}/logs", params=query, headers=headers)
    with request as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield events(answer)


def events(answer: httpx.Response) -> Iterator[tuple[str, dict[str, str]]]:
    event_id = ""
    for line in answer.iter_lines():
        if line.startswith("id: "):
            event_id = line[4:]
        if line.startswith("data: "):
            yield event_id, json.loads(line[6:])


def take(source: Iterator[Any], count: int) -> list[tuple[str, dict[str, str]]]:
    return [next(source) for _ in range(count)]


def test_stamps_are_unique_and_increasing_within_one_instant() -> None:
    log = PodLog()
    for i in range(100):
        log.write(1000, "container", str(i))
    stamps = [line.at_ns for line in log.tail(100)]
    assert stamps == sorted(set(stamps))


def test_the_ring_keeps_the_newest_lines_and_cuts_long_ones() -> None:
    log = PodLog()
    for i in range(KEEP_LINES + 10):
        log.write(i, "container", str(i))
    log.write(10**6, "container", "x" * (LINE_LIMIT + 5))
    lines = log.tail(KEEP_LINES)
    assert len(lines) == KEEP_LINES
    assert lines[0].text == "11"
    assert lines[-1].text.endswith("[5 characters cut]")


def test_a_backlog_then_what_comes(api: Api) -> None:
    pod_id = api.boot()["id"]
    say(api, pod_id, "one", "two")
    with stream(api, pod_id, source="container") as lines, Api(api.fake) as other:
        assert [data["line"] for _, data in take(lines, 2)] == ["one", "two"]
        say(other, pod_id, "three")
        event_id, data = next(lines)
        assert (data["line"], data["source"], data["ts"]) == ("three", "container", event_id)


def test_the_system_tells_the_pods_story(api: Api) -> None:
    pod_id = api.boot()["id"]
    with stream(api, pod_id, source="system") as lines:
        script = [data["line"].split()[0] for _, data in take(lines, 3)]
    assert script == ["create", "pulling", "start"]


@pytest.mark.parametrize(("tail", "expected"), [("2", ["d", "e"]), ("0", []), (None, ["a", "b", "c", "d", "e"])])
def test_tail(api: Api, tail: str | None, expected: list[str]) -> None:
    pod_id = api.create()["id"]
    say(api, pod_id, *"abcde")
    query = {"source": "container"} | ({} if tail is None else {"tail": tail})
    with stream(api, pod_id, **query) as lines, Api(api.fake) as other:
        say(other, pod_id, "end")
        got = [data["line"] for _, data in take(lines, len(expected) + 1)]
    assert got == [*expected, "end"]


def test_since_is_inclusive_and_the_last_event_id_wins(api: Api) -> None:
    pod_id = api.create()["id"]
    say(api, pod_id, *"abcde")
    with stream(api, pod_id, source="container") as lines:
        ids = [event_id for event_id, _ in take(lines, 5)]
    with stream(api, pod_id, source="container", since=ids[2], tail=1) as lines:
        assert [data["line"] for _, data in take(lines, 3)] == ["c", "d", "e"]
    with stream(api, pod_id, source="container", since=ids[0], headers={"Last-Event-ID": ids[3]}) as lines:
        assert [data["line"] for _, data in take(lines, 1)] == ["e"]


def test_resuming_again_and_again_loses_and_doubles_nothing(api: Api) -> None:
    pod_id = api.create()["id"]

    def talk() -> None:
        with Api(api.fake) as other:
            for i in range(40):
                say(other, pod_id, *(f"{i}.{j}" for j in range(5)))

    writer = threading.Thread(target=talk)
    writer.start()
    got: list[str] = []
    last_id = "1970-01-01T00:00:00Z"
    while len(got) < 200:
        with stream(api, pod_id, source="container", headers={"Last-Event-ID": last_id}) as lines:
            for event_id, data in take(lines, min(7, 200 - len(got))):
                got.append(data["line"])
                last_id = event_id
    writer.join()
    assert got == [f"{i}.{j}" for i in range(40) for j in range(5)]


def test_the_stream_ends_with_the_pod(api: Api) -> None:
    pod_id = api.boot()["id"]
    with stream(api, pod_id, tail=0) as lines, Api(api.fake) as other:
        other.delete(f"/v2/pods/{pod_id}").raise_for_status()
        assert [data["line"] for _, data in lines] == ["remove container (terminated)"]
    assert api.get(f"/v2/pods/{pod_id}/logs").status_code == 404


@pytest.mark.parametrize("query", ["tail=5001", "tail=-1", "source=stderr", "since=yesterday"])
def test_a_bad_query_is_422(api: Api, query: str) -> None:
    pod_id = api.create()["id"]
    assert api.get(f"/v2/pods/{pod_id}/logs?{query}").status_code == 422


def test_headers_hold_the_stream_open(api: Api) -> None:
    pod_id = api.create()["id"]
    with api.stream("GET", f"/v2/pods/{pod_id}/logs") as answer:
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["x-accel-buffering"] == "no"
        assert "ratelimit" in answer.headers
