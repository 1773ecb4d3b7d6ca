"""The live view and the server around it, as a real process: it follows, resumes, and lets the server stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests

from pod_worker.control.runs import live
from pod_worker.control.server import bind
from pod_worker.control.web.problem import ProblemError
from pod_worker.local.mongod import Mongod
from pod_worker.store.indexes import all_indexes
from pod_worker.store.mongo import connect, ensure_indexes
from tests.control.conftest import Plane
from tests.control.lines import JSON, NDJSON, event, ndjson

ROOT = Path(__file__).parents[3]


class Server:
    """A control plane in its own process."""

    def __init__(self, mongodb_url: str, *more: str) -> None:
        command = [sys.executable, "-m", "tests.control.serve", mongodb_url, *more]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the server printed nothing"
        self.url = f"http://127.0.0.1:{json.loads(line)['port']}"

    def post(self, *events: Any) -> dict[str, int]:
        answer = requests.post(f"{self.url}/api/ingest/events", data=ndjson(*events), headers=NDJSON, timeout=20)
        return dict(answer.json())

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def shared(mongod: Mongod) -> Iterator[tuple[Server, Any]]:
    """One process for all tests that do not stop it, and its database."""
    name = f"live_{os.getpid()}"
    database = connect(mongod.url_for(name))
    ensure_indexes(database, all_indexes())
    made = Server(mongod.url_for(name))
    yield made, database
    made.close()
    database.client.drop_database(name)
    database.client.close()


@pytest.fixture
def server(shared: tuple[Server, Any]) -> Server:
    """The shared process, with a run `r1` that has no events yet."""
    made, database = shared
    for collection in database.list_collection_names():
        database[collection].delete_many({})
    database["runs"].insert_one({"_id": "r1", "status": "RUNNING", "attempt": 1, "leaseToken": "secret"})
    return made


@pytest.fixture
def stoppable(store: Any, mongodb_url: str) -> Iterator[Server]:
    store["runs"].insert_one({"_id": "r1", "status": "RUNNING"})
    made = Server(mongodb_url)
    yield made
    made.close()


class View:
    """What a browser's EventSource would see."""

    def __init__(self, server: Server, query: str = "", **headers: str) -> None:
        url = f"{server.url}/api/runs/r1/live{query}"
        self.response = requests.get(url, headers=headers, stream=True, timeout=20)
        self._lines = self.response.iter_lines(chunk_size=1, decode_unicode=True)

    def messages(self) -> Iterator[tuple[str, Any, str | None]]:
        """(event, data, id) of each message, until the server ends the stream."""
        found: dict[str, str] = {}
        for line in self._lines:
            if not line:
                if "event" in found:
                    yield found["event"], json.loads(found["data"]), found.get("id")
                found = {}
            else:
                name, _, value = line.partition(": ")
                found[name] = value

    def until(self, event_id: str) -> list[str]:
        """The ids of the events up to that one."""
        seen: list[str] = []
        for kind, data, _ in self.messages():
            if kind == "event":
                seen.append(data["_id"])
                if data["_id"] == event_id:
                    return seen
        raise AssertionError(f"the stream ended before {event_id}, after {seen}")

    def close(self) -> None:
        self.response.close()


def test_a_view_follows_from_now_on(server: Server) -> None:
    server.post(event("before"))
    view = View(server)
    kind, state, _ = next(view.messages())
    assert (kind, state["run"]["status"]) == ("state", "RUNNING")
    assert "secret" not in json.dumps(state)
    server.post(event("e1"), event("e2", "ai.run.stage_progress", stage="s", progress=0.5))
    seen: list[str] = []
    progress = None
    for kind, data, _ in view.messages():
        if kind == "event":
            seen.append(data["_id"])
        elif data["stages"]:
            progress = data["stages"][0]["progress"]
        if progress is not None and "e2" in seen:
            break
    assert (seen, progress) == (["e1", "e2"], 0.5)
    view.close()


def test_a_view_resumes_without_a_gap(server: Server) -> None:
    view = View(server, "?after=0")
    server.post(*(event(f"a{n}") for n in range(5)))
    position = next(at for kind, data, at in view.messages() if kind == "event" and data["_id"] == "a2")
    view.close()
    server.post(*(event(f"b{n}") for n in range(5)))
    assert position is not None
    resumed = View(server, **{"Last-Event-ID": position})
    seen = resumed.until("b4")
    assert [name for name in seen if name not in ("a0", "a1", "a2")] == ["a3", "a4", "b0", "b1", "b2", "b3", "b4"]
    resumed.close()


def test_an_event_that_becomes_visible_late_is_not_missed(server: Server, shared: Any) -> None:
    """Two processes: the later position may be stored first."""
    from pod_worker.control.events.decoding import read_line
    from pod_worker.core.clock import ManualClock, SystemClock
    from tests.control.batches import ingest_events

    view = View(server)
    next(view.messages())
    server.post(event("now"))
    assert view.until("now") == ["now"]
    clock = ManualClock(SystemClock().now())
    clock.advance(-2)
    ingest_events(shared[1], read_line(ndjson(event("late"))), clock=clock)
    assert view.until("late") == ["late"]
    view.close()


def test_a_burst_larger_than_a_page_arrives_whole(server: Server) -> None:
    view = View(server)
    next(view.messages())
    names = [f"e{n}" for n in range(1300)]
    server.post(*(event(name) for name in names))
    assert view.until(names[-1]) == names
    view.close()


def test_no_such_run(server: Server) -> None:
    assert requests.get(f"{server.url}/api/runs/none/live", timeout=20).status_code == 404


def test_the_server_stops_with_a_view_open(stoppable: Server) -> None:
    view = View(stoppable)
    next(view.messages())
    assert stoppable.stop() == 0
    assert [kind for kind, _, _ in view.messages()][-1] == "bye"
    view.close()


def test_a_stop_finishes_what_was_begun(stoppable: Server, store: Any) -> None:
    """SIGTERM while a batch is on its way in: it is answered, and what was answered is stored."""
    answers: list[Any] = []
    batches = [ndjson(*(event(f"{b}-{n}") for n in range(500))) for b in range(20)]
    sent = threading.Event()

    def send() -> None:
        with requests.Session() as session:
            for batch in batches:
                try:
                    url = f"{stoppable.url}/api/ingest/events"
                    answers.append(session.post(url, data=batch, headers=NDJSON, timeout=20).status_code)
                except requests.ConnectionError:
                    return
                sent.set()

    thread = threading.Thread(target=send)
    thread.start()
    assert sent.wait(20)
    assert stoppable.stop() == 0
    thread.join()
    assert set(answers) == {202}
    assert store["events"].count_documents({}) >= 500 * len(answers)


def test_curl_gets_the_guides_answers(server: Server) -> None:
    """The seed guide's commands, the host apart, through the real program."""
    from tests.control.lines import SEED_BATCH, SEED_HEARTBEAT

    def curl(path: str, kind: str, body: str) -> Any:
        command = ["curl", "-sS", "-X", "POST", server.url + path, "-H", f"Content-Type: {kind}", "-d", body]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout)

    assert curl("/api/ingest/event", "application/cloudevents+json", SEED_HEARTBEAT) == {"event_id": "test-123"}
    assert curl("/api/ingest/events", "application/x-ndjson", SEED_BATCH)["accepted"] == 2


def test_a_port_that_is_taken_is_named() -> None:
    with closing(bind("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}.*--port"):
            bind("127.0.0.1", port)


def test_keys_hold_over_a_socket_too(server: Server) -> None:
    url = f"{server.url}/api/ingest/event"
    assert requests.post(url, json=event("e1"), timeout=20).status_code == 201
    wrong = JSON | {"Authorization": "Bearer wrong"}
    assert requests.post(url, json=event("e2"), headers=wrong, timeout=20).status_code == 403
    assert requests.post(url, json=event("e3"), headers={"Host": "evil.example"}, timeout=20).status_code == 401


def test_a_rush_of_viewers_stays_within_the_limit(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The place is taken before the first await: 544 of 600 simultaneous viewers passed a limit of 200."""
    monkeypatch.setattr(live, "VIEWERS", 5)
    store["runs"].insert_one({"_id": "r1", "status": "RUNNING"})
    views = live.LiveViews(store, 3600)

    async def scene() -> tuple[list[int], int]:
        results = await asyncio.gather(*(_enter(views) for _ in range(40)))
        with pytest.raises(ProblemError):
            views.reserve()
        for each in results:
            if callable(each):
                each()
        return [each for each in results if isinstance(each, int)], views._viewers

    refused, left = asyncio.run(scene())
    assert refused == [503] * 35
    assert left == 0


async def _enter(views: live.LiveViews) -> Any:
    try:
        release = views.reserve()
        await views.check_run("r1")
    except ProblemError as error:
        return error.status
    return release


def test_a_place_is_given_back_by_every_kind_of_end(
    plane: Plane, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "VIEWERS", 1)
    http = plane()
    for _ in range(3):
        assert http.get("/api/runs/none/live").status_code == 404


def test_many_viewers_of_one_run_cost_one_poller(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store["runs"].insert_one({"_id": "r1", "status": "RUNNING"})
    polls = 0
    poll = live.RunFollower.poll

    def counted(self: live.RunFollower) -> live.News:
        nonlocal polls
        polls += 1
        return poll(self)

    monkeypatch.setattr(live.RunFollower, "poll", counted)
    views = live.LiveViews(store, 3600)

    async def scene() -> None:
        stopping = asyncio.Event()
        streams = [views.stream("r1", None, stopping) for _ in range(20)]
        for stream in streams:
            first = [await anext(stream), await anext(stream)]
            assert first[1].startswith(b"event: state")
        assert len(views._feeds) == 1
        for stream in streams:
            await stream.aclose()
        assert views._feeds == {}

    asyncio.run(scene())
    assert polls == 1


def test_a_viewer_that_does_not_read_is_ended(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "QUEUED_BATCHES", 2)
    views = live.LiveViews(store, 3600)
    viewer = live._Viewer()
    for _ in range(3):
        viewer.put(live.News(b"{}"))

    async def scene() -> list[bytes]:
        feed = views._join("r1", live._Viewer())
        feed.task.cancel()
        return [part async for part in live._follow(feed, viewer, set(), asyncio.Event())]

    assert asyncio.run(scene()) == [live._BYE]


@pytest.mark.parametrize("header", ["²", "9" * 5000, "-1", "x", "9" * 19])
def test_any_last_event_id_is_accepted(header: str) -> None:
    position = live._position(header)
    assert position is None or 0 <= position <= live.POSITION_LIMIT


# ── requests as other clients write them ────────────────────────────────────────────────────────────────────


def raw_answers(server: Server, request: bytes, count: int) -> list[int]:
    """The status of each answer to bytes on one connection; 100 (Continue) counts too."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(request.replace(b"HOST", f"{host}:{port}".encode()))
        received = b""
        while received.count(b"HTTP/1.1 ") < count:
            part = connection.recv(65536)
            assert part, received
            received += part
    return [int(each[:3]) for each in received.split(b"HTTP/1.1 ")[1:]]


def test_chunked_pipelined_and_expecting_clients_are_answered(server: Server) -> None:
    head = b"POST /api/ingest/events HTTP/1.1\r\nHost: HOST\r\nContent-Type: application/x-ndjson\r\n"
    first, second, third = (ndjson(event(name)) for name in ("c1", "c2", "c3"))
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (first[:7], first[7:])) + b"0\r\n\r\n"
    assert raw_answers(server, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks, 1) == [202]
    plain = [head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body) for body in (second, first)]
    assert raw_answers(server, b"".join(plain), 2) == [202, 202]
    expecting = head + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n%b" % (len(third), third)
    assert raw_answers(server, expecting, 2) == [100, 202]
