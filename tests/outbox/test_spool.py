from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pod_worker.core.clock import ManualClock, SystemClock
from pod_worker.core.payload import RunLog, RunStarted, StageCompleted
from pod_worker.outbox import RunEmitter, Spool, SpoolInUseError, UlidGenerator, adopt_orphans
from pod_worker.outbox.backlog import Backlog
from pod_worker.outbox.spool import run_stream

SOURCE = "runpod://pod/p1"
TEXT = "x" * 400


def make_emitter(spool: Spool, run_id: str = "r1", attempt: int = 1) -> RunEmitter:
    clock = SystemClock()
    return RunEmitter(spool, SOURCE, run_id, attempt, clock, UlidGenerator(clock))


def deliver(spool: Spool) -> None:
    """What the shipper does once ingest has taken everything."""
    for folder in spool.stream_folders():
        backlog = Backlog(folder)
        while lines := backlog.next_lines(500, 1 << 22, with_deferred=True):
            backlog.acknowledge(lines, [])


def events(spool: Spool) -> list[dict]:
    return [json.loads(line) for line in spool.lines()]


def test_a_living_owner_is_neither_doubled_nor_adopted(tmp_path):
    spool = Spool.open(tmp_path, "w1")
    with pytest.raises(SpoolInUseError, match="living worker"):
        Spool.open(tmp_path, "w1")
    assert adopt_orphans(tmp_path) == []
    spool.close()
    (orphan,) = adopt_orphans(tmp_path)
    assert orphan.directory == spool.directory
    assert adopt_orphans(tmp_path) == []
    orphan.close()


def test_what_a_killed_worker_left_is_adopted_whole(tmp_path):
    program = """
import sys, time, pathlib
from pod_worker.core.clock import SystemClock
from pod_worker.core.payload import RunLog
from pod_worker.outbox import RunEmitter, Spool, UlidGenerator
clock = SystemClock()
spool = Spool.open(pathlib.Path(sys.argv[1]), "w1")
emitter = RunEmitter(spool, "runpod://pod/p1", "r1", 1, clock, UlidGenerator(clock))
for _ in range(10):
    print(emitter.emit(RunLog(message="m")), flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True) as worker:
        ids = [worker.stdout.readline().strip() for _ in range(10)]
        assert adopt_orphans(tmp_path) == []
        worker.send_signal(signal.SIGKILL)
    (orphan,) = adopt_orphans(tmp_path)
    assert orphan.event_ids("r1", 1) == ids
    orphan.close()


def test_worker_ids_may_be_any_text(tmp_path):
    for worker_id in ("a/b", "..", "w" * 300):
        Spool.open(tmp_path, worker_id).close()
    assert len(list(tmp_path.glob("worker-*"))) == 3


def test_undelivered_samples_are_evicted_oldest_first_and_logged(tmp_path):
    limit = 200_000
    spool = Spool.open(tmp_path, "w1", max_bytes=limit)
    emitter = make_emitter(spool)
    emitter.emit(RunStarted(pod_id="p1"))
    sent = [emitter.emit(RunLog(message=TEXT)) for _ in range(2000)]
    emitter.emit(StageCompleted(stage="s"))
    assert spool.size_bytes() <= limit + 2 * limit // 16
    found = events(spool)
    assert [event["type"] for event in found if "run.log" not in event["type"]] == [
        "ai.run.started",
        "ai.run.stage_completed",
    ]
    warnings = [event["data"]["message"] for event in found if event["data"].get("source") == "outbox"]
    kept = [event["id"] for event in found if event["data"].get("message") == TEXT]
    assert kept == sent[-len(kept) :]
    assert warnings
    assert all("were evicted, the oldest first" in text for text in warnings)
    # Warnings are evicted with the rest; together with what the surviving ones count, nothing is unaccounted for.
    numbers = [event["seq"] for event in found if event["type"] == "ai.run.log"]
    assert numbers == sorted(numbers)
    spool.close()


def test_evicted_counts_add_up(tmp_path):
    spool = Spool.open(tmp_path, "w1", max_bytes=100_000)
    emitter = make_emitter(spool)
    count = 0
    while not any(event["data"].get("source") == "outbox" for event in events(spool)):
        emitter.emit(RunLog(message=TEXT))
        count += 1
    found = events(spool)
    (warning,) = [event["data"]["message"] for event in found if event["data"].get("source") == "outbox"]
    assert int(warning.split()[0]) == count - (len(found) - 1)
    spool.close()


def test_delivered_segments_go_before_undelivered_ones(tmp_path):
    spool = Spool.open(tmp_path, "w1", max_bytes=100_000)
    old, new = make_emitter(spool, "old"), make_emitter(spool, "new")
    delivered = [old.emit(RunLog(message=TEXT)) for _ in range(60)]
    deliver(spool)
    pending = []
    while spool.event_ids("old", 1) == delivered:
        pending.append(new.emit(RunLog(message=TEXT)))
    while spool.size_bytes() < 95_000:
        pending.append(new.emit(RunLog(message=TEXT)))
    assert spool.event_ids("new", 1) == pending, "nothing undelivered was removed, and no warning made"
    spool.close()


def test_many_small_delivered_runs_do_not_add_up(tmp_path):
    spool = Spool.open(tmp_path, "w1", max_bytes=50_000)
    for number in range(60):
        emitter = make_emitter(spool, f"r{number}")
        emitter.emit(RunStarted(pod_id="p1"))
        for _ in range(5):
            emitter.emit(RunLog(message=TEXT))
        deliver(spool)
        assert spool.size_bytes() <= 55_000
    emitter = make_emitter(spool, "r0")
    emitter.emit(StageCompleted(stage="s"))
    assert events(spool)[0]["seq"] == 7, "a freed attempt still counts on"
    spool.close()


def test_undelivered_facts_are_never_removed(tmp_path):
    spool = Spool.open(tmp_path, "w1", max_bytes=20_000)
    emitter = make_emitter(spool)
    sent = [emitter.emit(StageCompleted(stage=TEXT)) for _ in range(200)]
    assert spool.event_ids("r1", 1) == sent
    spool.close()


def test_prune_takes_only_what_is_delivered_and_old(tmp_path):
    clock = ManualClock()
    clock._now = SystemClock().now()
    spool = Spool.open(tmp_path, "w1", clock=clock)
    done, waiting = make_emitter(spool, "done"), make_emitter(spool, "waiting")
    done.emit(RunStarted(pod_id="p1"))
    deliver(spool)
    waiting.emit(RunStarted(pod_id="p1"))
    assert spool.prune(older_than=60) == 0
    clock.advance(61)
    assert spool.prune(older_than=60) == 1
    assert [event["subject"] for event in events(spool)] == ["run/waiting"]
    done.emit(StageCompleted(stage="s"))
    assert len(spool.event_ids("done", 1)) == 1, "an emitter that is still open creates the folder again"
    spool.close()


def test_many_delivered_streams_are_pruned_sooner(tmp_path):
    """A worker of many small runs would otherwise look at thousands of folders, four times a second."""
    clock = ManualClock()
    clock._now = SystemClock().now()
    spool = Spool.open(tmp_path, "w1", clock=clock)
    for number in (0, 2, 3, 4, 5, 1):
        make_emitter(spool, f"r{number}").emit(RunStarted(pod_id="p1"))
        os.utime(spool.directory / run_stream(f"r{number}", 1) / "head", (number, number))
        if number != 1:
            deliver(spool)
    assert spool.prune(older_than=3600, kept=2, surplus_after=60) == 0, "they were written just now"
    clock.advance(61)
    assert spool.prune(older_than=3600, kept=2, surplus_after=60) == 3
    kept = {event["subject"] for event in events(spool)}
    assert kept == {"run/r1", "run/r4", "run/r5"}, "the newest ones, and what is not delivered"
    spool.close()


def test_a_folder_pruned_and_created_again_is_read_from_its_start(tmp_path):
    spool = Spool.open(tmp_path, "w1")
    emitter = make_emitter(spool)
    emitter.emit(StageCompleted(stage="before"))
    backlog = Backlog(spool.stream_folders()[0])
    backlog.acknowledge(backlog.next_lines(10, 10_000, with_deferred=True), [])
    assert spool.prune(older_than=-60) == 1
    emitter.emit(StageCompleted(stage="after"))
    (line,) = backlog.next_lines(10, 10_000, with_deferred=True)
    assert json.loads(line.data)["data"]["stage"] == "after"
    spool.close()


def test_a_torn_last_line_of_a_dead_process_does_not_keep_a_folder(tmp_path):
    clock = ManualClock()
    clock._now = SystemClock().now()
    spool = Spool.open(tmp_path, "w1", clock=clock)
    make_emitter(spool).emit(RunStarted(pod_id="p1"))
    deliver(spool)
    (segment,) = spool.directory.rglob("facts.*")
    with open(segment, "ab") as file:
        file.write(b'{"specversion":"1.0","se')
    clock.advance(61)
    assert spool.prune(older_than=60) == 1
    spool.close()


def test_an_adopted_folder_is_removed_when_it_is_empty_and_unused(tmp_path):
    Spool.open(tmp_path, "w1").close()
    (orphan,) = adopt_orphans(tmp_path)
    with_child = Spool.attach(orphan.directory)
    assert not orphan.remove_if_empty()
    with_child.close()
    orphan.dead_letter.write_bytes(b"{}\n")
    assert not orphan.remove_if_empty()
    orphan.dead_letter.unlink()
    assert orphan.remove_if_empty()
    assert list(tmp_path.iterdir()) == []
    own = Spool.open(tmp_path, "w2")
    assert not own.remove_if_empty(), "a worker's own folder stays while it lives"
    own.close()


def test_dead_letters_are_bounded_too(spool, monkeypatch):
    monkeypatch.setattr("pod_worker.outbox.spool.DEAD_LETTER_BYTES", 1000)
    for number in range(10):
        spool.append_dead_letter(b"%04d" % number + b"x" * 395 + b"\n")
    kept = spool.dead_letter.with_suffix(".old.ndjson").read_bytes() + spool.dead_letter.read_bytes()
    assert [line[:4] for line in kept.splitlines()] == [b"0006", b"0007", b"0008", b"0009"]


EMIT_LOOP = """
import os, random, sys, threading, time
from pathlib import Path
from pod_worker.core.clock import SystemClock
from pod_worker.core.payload import RunLog, RunHeartbeat, StageCompleted, StageMetric
from pod_worker.outbox import RunEmitter, Spool, UlidGenerator

directory, threads, count, pause = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
clock = SystemClock()
emitter = RunEmitter(Spool.attach(directory, 1 << 30), "runpod://pod/p1", "r1", 1, clock, UlidGenerator(clock))

def loop(seed):
    rng = random.Random(seed)
    for step in range(count):
        payload = rng.choice([
            StageMetric(stage="training", name="loss", value=0.5, step=step),
            RunLog(message="x" * rng.choice([10, 20, 30, 40, 50, 20_000])),
            StageCompleted(stage="s", summary={"step": step}),
        ])
        os.write(1, emitter.emit(payload).encode() + b"\\n")
        time.sleep(pause)

workers = [threading.Thread(target=loop, args=(seed,)) for seed in range(threads)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
"""


def start_loop(directory: Path, threads: int, count: int, pause: float = 0.0) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", EMIT_LOOP, str(directory), str(threads), str(count), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def test_two_processes_of_several_threads_share_one_gapless_count(tmp_path):
    spool = Spool.open(tmp_path, "w1", max_bytes=1 << 30)
    processes = [start_loop(spool.directory, threads=3, count=200) for _ in range(2)]
    ids = [line for process in processes for line in process.communicate(timeout=60)[0].split()]
    assert [process.returncode for process in processes] == [0, 0]
    found = events(spool)
    assert sorted(event["id"].encode() for event in found) == sorted(ids)
    numbers = sorted(event["seq"] for event in found if "seq" in event)
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) == len(found), "no line went to the overflow"
    spool.close()


@pytest.mark.slow
def test_killed_at_any_point_every_event_whose_emit_returned_is_there_once(tmp_path):
    """SIGKILL in a tight loop, over and over on the same attempt, a second process emitting all the while."""
    rng = random.Random(7)
    spool = Spool.open(tmp_path, "w1", max_bytes=1 << 30)
    bystander = start_loop(spool.directory, threads=1, count=1_000_000, pause=0.0005)
    heard: list[bytes] = []
    listener = threading.Thread(target=lambda: heard.append(bystander.stdout.read()))
    listener.start()
    returned: list[bytes] = []
    for _ in range(15):
        with start_loop(spool.directory, threads=2, count=1_000_000) as victim:
            for _ in range(rng.randrange(1, 60)):
                returned.append(victim.stdout.readline().strip())
            os.kill(victim.pid, signal.SIGKILL)
            rest = victim.stdout.read()
            returned += rest[: rest.rfind(b"\n") + 1].split()
    bystander.kill()
    bystander.wait()
    listener.join()
    bystander.stdout.close()
    returned += heard[0][: heard[0].rfind(b"\n") + 1].split()
    make_emitter(spool).emit(RunLog(message="the survivor repairs the last torn line"))
    found = events(spool)
    ids = [event["id"].encode() for event in found]
    assert len(ids) == len(set(ids))
    assert not set(returned) - set(ids)
    # A line that was whole when its process died may be there unreported: at most one per thread and kill.
    assert len(set(ids) - set(returned)) <= 15 * 2 + 2
    numbers = sorted(event["seq"] for event in found if "seq" in event)
    assert numbers == list(range(1, len(numbers) + 1)), "no number twice, and no gap"
    spool.close()
