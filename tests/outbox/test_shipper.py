from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from pod_worker.core.credentials.attempt_token import mint
from pod_worker.core.payload import GpuShortage, RunLog, RunStarted, StageCompleted
from pod_worker.outbox import PodEmitter, RunEmitter, Spool, UlidGenerator, adopt_orphans
from pod_worker.outbox.cursor import load_cursor
from pod_worker.outbox.ingest_client import IngestClient
from pod_worker.outbox.shipper import CATCH_UP_LINES, Shipper
from tests.outbox.ingest_server import SOURCE, Reply, refuse


def say(emitter: RunEmitter, count: int, start: int = 0) -> list[str]:
    return [emitter.emit(RunLog(message=f"line {number}")) for number in range(start, start + count)]


def dead(spool: Spool) -> list[dict]:
    return (
        [json.loads(line) for line in spool.dead_letter.read_bytes().splitlines()]
        if spool.dead_letter.exists()
        else []
    )


def dead_ids(spool: Spool) -> list[str]:
    return [json.loads(letter["event"])["id"] for letter in dead(spool)]


def test_everything_arrives_once_in_order_over_one_connection(ingest, emitter, ship):
    ids = [emitter.emit(RunStarted(pod_id="p1")), *say(emitter, 120), emitter.emit(StageCompleted(stage="s"))]
    shipper = ship()
    assert shipper.flush(10)
    assert [event["id"] for event in ingest.events if event["type"] != "x"] == ids
    assert set(ingest.stored.values()) == {1}
    assert ingest.connections == 1
    assert shipper.stats().acknowledged == 122
    assert shipper.stats().pending_bytes == 0
    assert ingest.headers[0]["Authorization"] == f"Bearer {mint('secret-token', 'r1', 1)}"
    assert ingest.headers[0]["Content-Encoding"] == "gzip"


def test_a_full_batch_goes_at_once_and_a_small_one_waits(ingest, emitter, ship):
    ship(batch_events=10, batch_seconds=30)
    say(emitter, 9)
    started = time.monotonic()
    emitter.emit(RunLog(message="the tenth"))
    ingest.wait_for(lambda: len(ingest.stored) == 10)
    assert time.monotonic() - started < 10
    assert ingest.requests == [10]


def test_a_flush_does_not_wait_for_a_batch_to_fill(ingest, emitter, ship):
    shipper = ship(batch_events=50, batch_seconds=30)
    say(emitter, 3)
    assert shipper.flush(5)
    assert ingest.requests == [3]


def test_a_pods_own_events_go_too(ingest, spool, clock, ship):
    event_id = PodEmitter(spool, SOURCE, "p1", clock, UlidGenerator(clock)).emit(
        GpuShortage(required_gpus=1, available_gpus=0)
    )
    assert ship().flush(5)
    assert list(ingest.stored) == [event_id]


def until(passed: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not passed():
        assert time.monotonic() < deadline, "it did not come true in time"
        threading.Event().wait(0.005)


@pytest.mark.parametrize("flush_begins", ["before the answer", "after the answer"])
def test_retry_after_is_obeyed_even_by_a_flush(ingest, emitter, ship, flush_begins):
    ingest.fail_first(Reply(503, b"mongo is away", {"Retry-After": "1"}))
    shipper = ship()
    ids = say(emitter, 3)
    started = time.monotonic()
    if flush_begins == "after the answer":
        until(lambda: shipper.stats().failures == 1)
    assert shipper.flush(10)
    assert time.monotonic() - started >= 1
    assert len(ingest.requests) == 2
    assert list(ingest.stored) == ids


def test_retry_after_may_be_a_date(ingest, emitter, ship):
    ingest.fail_first(Reply(429, b"", {"Retry-After": "Sun, 01 Jan 2040 00:00:00 GMT"}))
    shipper = ship()
    say(emitter, 1)
    ingest.wait_for(lambda: ingest.requests)
    assert not shipper.flush(1)
    assert len(ingest.requests) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_failing_server_is_tried_again(ingest, emitter, ship, status):
    ingest.fail_first(*[Reply(status, b"failing")] * 2)
    shipper = ship()
    ids = say(emitter, 5)
    assert shipper.flush(20)
    assert list(ingest.stored) == ids
    assert shipper.stats().failures == 2
    assert not shipper.logged, "two failures are not logged"
    assert shipper.stats().last_failure is None


def test_a_connection_reset_after_storing_only_makes_duplicates(ingest, emitter, ship):
    ingest.fail_first(*[Reply(202, is_reset=True)] * 2)
    ids = say(emitter, 20)
    shipper = ship()
    assert shipper.flush(20)
    assert sorted(ingest.stored) == sorted(ids)
    assert set(ingest.stored.values()) == {3}


def test_refused_lines_are_kept_apart_and_the_rest_goes_through(ingest, spool, emitter, ship):
    ingest.fail_first(refuse(2, 4))
    ids = say(emitter, 5)  # before the shipper looks, so that all are in the first batch
    shipper = ship(batch_seconds=0.3)
    assert shipper.flush(10)
    assert list(ingest.stored) == [ids[0], ids[2], ids[4]]
    assert dead_ids(spool) == [ids[1], ids[3]]
    assert dead(spool)[0]["code"] == "invalid"
    assert dead(spool)[0]["error"] == "no"
    (warning,) = shipper.logged
    assert "rejected 2 events" in warning
    assert str(spool.dead_letter) in warning
    assert shipper.stats().rejected == 2


def test_deferred_lines_are_sent_again_without_the_rest(ingest, spool, emitter, ship):
    ingest.fail_first(refuse(1, code="unavailable"), refuse(1, code="unavailable"))
    ids = say(emitter, 4)  # before the shipper looks, so that all are in the first batch
    shipper = ship(batch_seconds=0.3)
    assert shipper.flush(20)
    assert sorted(ingest.stored) == sorted(ids)
    assert set(ingest.stored.values()) == {1}
    assert not dead(spool)


def test_a_line_deferred_for_ever_blocks_no_other_and_survives_a_restart(ingest, spool, emitter, ship):
    ids = say(emitter, 1)

    def never_the_first(events):
        places = [place for place, event in enumerate(events, 1) if event["id"] == ids[0]]
        return refuse(*places, code="unavailable") if places else None

    ingest.plan = never_the_first
    shipper = ship()
    for number in range(5):
        ids += say(emitter, 60, 100 * number)
        expected = len(ids) - 1
        ingest.wait_for(lambda expected=expected: len(ingest.stored) == expected)
    assert not shipper.flush(0.2)
    shipper.stop()
    (deferred,) = load_cursor(spool.stream_folders()[0]).deferred
    assert deferred.start == 0
    ingest.plan = lambda events: None
    assert ship().flush(10)
    assert sorted(ingest.stored) == sorted(ids)


def test_errors_are_matched_by_event_id_before_line_number(ingest, spool, emitter, ship):
    ids = say(emitter, 3)
    error = {"line": 1, "event_id": ids[2], "code": "invalid", "error": {"field": "data"}}
    ingest.fail_first(Reply(207, {"accepted": 2, "errors": [error]}, is_stored=False))
    assert ship(batch_seconds=0.3).flush(10)
    assert dead_ids(spool) == [ids[2]]
    assert dead(spool)[0]["error"] == '{"field":"data"}'


@pytest.mark.parametrize("status", [400, 413, 415, 422])
@pytest.mark.parametrize("count", [5, 200])
def test_poison_lines_are_found_and_block_no_other(ingest, spool, emitter, ship, status, count):
    ids = say(emitter, count)
    poison = {ids[3], ids[-2]}

    def choke(events):
        return Reply(status, b"cannot read this") if poison & {event["id"] for event in events} else None

    ingest.plan = choke
    shipper = ship()
    assert shipper.flush(20)
    assert set(ids) - set(ingest.stored) == poison
    assert sorted(dead_ids(spool)) == sorted(poison)
    assert set(ingest.stored.values()) == {1}
    assert dead(spool)[0]["code"] == str(status)


def test_a_server_that_rejects_everything_costs_no_event(ingest, spool, emitter, ship):
    ingest.plan = lambda events: Reply(400, b"every gzip is bad today")
    shipper = ship()
    ids = say(emitter, 100)
    assert not shipper.flush(0.3)
    ingest.wait_for(lambda: len(ingest.requests) > 100)
    assert not dead(spool)
    assert "rejects everything" in shipper.stats().last_failure
    ingest.plan = lambda events: None
    assert shipper.flush(10)
    assert sorted(ingest.stored) == sorted(ids)


@pytest.mark.parametrize(
    ("reply", "fix"),
    [
        (Reply(401, b"{}"), "Set a valid CONTROL_PLANE_TOKEN"),
        (Reply(403, b"{}"), "Set a valid CONTROL_PLANE_TOKEN"),
        (Reply(404, b"<html>"), "Check CONTROL_PLANE_URL"),
        (Reply(301, b"", {"Location": "https://elsewhere/"}), "redirects to https://elsewhere/"),
        (Reply(200, b"<html>Please log in</html>"), "not as ingest does"),
        (Reply(200, {"hello": 1}), "not as ingest does"),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Reply) else "",
)
def test_a_wrong_setting_is_logged_and_nothing_is_lost(ingest, spool, emitter, ship, reply, fix):
    reply.is_stored = False
    ingest.plan = lambda events: reply
    shipper = ship()
    ids = say(emitter, 2)
    until(lambda: shipper.logged)
    assert not shipper.flush(0.3)
    (warning,) = shipper.logged
    assert fix in warning
    assert "secret-token" not in warning
    ingest.plan = lambda events: None
    assert shipper.flush(10)
    assert list(ingest.stored) == ids
    assert not dead(spool)


def test_a_url_that_is_none_is_refused_at_once(clock):
    with pytest.raises(ValueError, match="CONTROL_PLANE_URL must begin with"):
        IngestClient("localhost:8000", clock)


def test_after_an_outage_it_catches_up_in_large_batches(ingest, spool, emitter, ship):
    ingest.close()
    shipper = ship()
    ids = say(emitter, 1500)
    until(lambda: shipper.stats().failures)
    assert not shipper.flush(0.5)
    assert shipper.stats().pending_bytes > 0
    ingest.open(ingest.port)
    assert shipper.flush(30)
    assert list(ingest.stored) == ids
    assert max(ingest.requests) == CATCH_UP_LINES


def test_emit_never_waits_for_a_server_that_hangs(ingest, emitter, ship):
    gate = threading.Event()
    ingest.plan = lambda events: gate.wait(30) and None
    shipper = ship()
    say(emitter, 60)
    started = time.monotonic()
    say(emitter, 500)
    assert time.monotonic() - started < 10, "it would be 30 s"
    gate.set()
    assert shipper.flush(20)


def test_a_crash_between_answer_and_acknowledgement_only_makes_duplicates(
    ingest, spool, emitter, ship, monkeypatch
):
    ids = say(emitter, 30)
    killed = Shipper([spool], ingest.url, None, batch_events=1)

    def die(*_):
        raise SystemExit  # what runs before this line is what a kill would leave behind

    monkeypatch.setattr(killed, "_record_result", die)
    with pytest.raises(SystemExit):
        killed._ship_once()
    killed.stop()
    assert ship().flush(10)
    assert sorted(ingest.stored) == sorted(ids)
    assert set(ingest.stored.values()) == {2}


@pytest.mark.slow
def test_a_shipper_killed_anywhere_loses_nothing(ingest, tmp_path):
    """A real process that emits and ships is SIGKILLed several times; the last worker ships the rest."""
    program = """
import os, sys
from pathlib import Path
from pod_worker.core.clock import SystemClock
from pod_worker.core.payload import RunLog
from pod_worker.outbox import RunEmitter, Spool, UlidGenerator, adopt_orphans
from pod_worker.outbox.shipper import Shipper
root, url, worker = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
clock = SystemClock()
spools = adopt_orphans(root) + [Spool.open(root, worker)]
emitter = RunEmitter(spools[-1], "runpod://pod/p1", "r1", int(worker), clock, UlidGenerator(clock))
Shipper(spools, url, None, batch_seconds=0.01).start()
while True:
    os.write(1, emitter.emit(RunLog(message="m")).encode() + b"\\n")
"""
    returned: list[str] = []
    for worker in range(4):
        before = len(ingest.requests)
        command = [sys.executable, "-c", program, str(tmp_path), ingest.url, str(worker)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            returned.append(process.stdout.readline().decode().strip())
            reader = threading.Thread(
                target=lambda out=process.stdout: returned.extend(out.read().decode().split())
            )
            reader.start()
            goal = before + 4 + 3 * worker
            ingest.wait_for(lambda goal=goal: len(ingest.requests) >= goal)
            process.send_signal(signal.SIGKILL)
            reader.join()
    whole = {text for text in returned if len(text) == 26}
    spools = adopt_orphans(tmp_path)
    assert len(spools) == 4
    last = Shipper(spools, ingest.url, None, batch_seconds=0.01)
    last.start()
    assert last.flush(60)
    last.stop()
    assert whole <= set(ingest.stored)
    for spool in spools:
        spool.close()


def test_an_emptied_orphan_is_removed(ingest, tmp_path, clock, ship):
    dead_worker = Spool.open(tmp_path / "other", "w0")
    RunEmitter(dead_worker, SOURCE, "r1", 1, clock, UlidGenerator(clock)).emit(RunLog(message="m"))
    dead_worker.close()
    (orphan,) = adopt_orphans(tmp_path / "other")
    keeping = ship(orphan, keep_seconds=1000)
    assert keeping.flush(10)
    keeping.stop()  # two shippers never share a spool: each would restore the folder that the other removes
    assert orphan.directory.exists()
    ship(orphan, keep_seconds=-1)
    until(lambda: not orphan.directory.exists())


def test_two_runs_each_get_their_own_batches(ingest, spool, clock, ship):
    emitters = [RunEmitter(spool, SOURCE, f"r{number}", 1, clock, UlidGenerator(clock)) for number in range(3)]
    for emitter in emitters:
        say(emitter, 10)
    assert ship().flush(10)
    assert ingest.requests == [10, 10, 10]


def test_facts_overtake_a_backlog_of_samples(ingest, emitter, ship):
    say(emitter, CATCH_UP_LINES * 2)
    fact = emitter.emit(StageCompleted(stage="s"))
    assert ship().flush(10)
    assert fact in [event["id"] for event in ingest.events[:CATCH_UP_LINES]]


def test_stop_is_quick_and_keeps_the_rest(ingest, spool, emitter, ship):
    ingest.plan = lambda events: Reply(503, b"", {"Retry-After": "60"})
    shipper = ship()
    say(emitter, 5)
    ingest.wait_for(lambda: ingest.requests)
    started = time.monotonic()
    shipper.stop()
    assert time.monotonic() - started < 5
    ingest.plan = lambda events: None
    assert ship().flush(5)
    assert len(ingest.stored) == 5


def test_a_stream_that_was_quiet_is_noticed_at_once(ingest, emitter, ship):
    ship(batch_seconds=0.05)
    expected = 0
    for pause in (0.0, 0.3, 0.6):
        threading.Event().wait(pause)
        expected += len(say(emitter, 1))
        started = time.monotonic()
        ingest.wait_for(lambda expected=expected: len(ingest.stored) == expected)
        assert time.monotonic() - started < 3, "within the batch's time, not at the look every five seconds"


def test_the_overflow_of_a_quiet_stream_is_delivered_too(ingest, spool, emitter, ship, clock, monkeypatch):
    monkeypatch.setattr("pod_worker.outbox.stream.LOCK_SECONDS", 0.02)
    monkeypatch.setattr("pod_worker.outbox.backlog._LOOK_SECONDS", 0.3)
    ids = say(emitter, 1)
    shipper = ship()
    ingest.wait_for(lambda: len(ingest.stored) == 1)
    (backlog,) = shipper._backlogs.values()
    until(lambda: backlog.is_quiet(clock.monotonic()))
    with open(spool.stream_folders()[0] / "head") as frozen:
        fcntl.flock(frozen, fcntl.LOCK_EX)
        ids += say(emitter, 1)
        ingest.wait_for(lambda: len(ingest.stored) == 2)
    assert list(ingest.stored) == ids
    assert "seq" not in ingest.events[1]
