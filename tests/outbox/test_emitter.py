from __future__ import annotations

import errno
import json
import os
from dataclasses import asdict
from datetime import UTC, datetime

import pytest
from ulid import ULID

from pod_worker.control.events.decoding import read_line
from pod_worker.core.clock import ManualClock
from pod_worker.core.payload import (
    PAYLOADS,
    GpuShortage,
    RunFailed,
    RunHeartbeat,
    RunLog,
    RunStarted,
    StageCompleted,
    StageMetric,
)
from pod_worker.core.stage import EventEmitter
from pod_worker.outbox import PodEmitter, RunEmitter, Spool, UlidGenerator
from pod_worker.outbox.backlog import Backlog
from pod_worker.outbox.event_encoding import LINE_LIMIT_BYTES
from tests.outbox.payloads import example

SOURCE = "runpod://pod/p1"


def events(spool: Spool) -> list[dict]:
    return [json.loads(line) for line in spool.lines()]


def metric(step: int = 1, value: float = 0.5) -> StageMetric:
    return StageMetric(stage="training", name="loss", value=value, step=step)


def test_the_line_is_the_whole_envelope(spool):
    clock = ManualClock(datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC))
    emitter: EventEmitter = RunEmitter(spool, SOURCE, "r1", 3, clock, lambda: "ID", traceparent="00-ab-cd-01")
    assert emitter.emit(RunStarted(pod_id="p1")) == "ID"
    assert events(spool) == [
        {
            "specversion": "1.0",
            "id": "ID",
            "source": SOURCE,
            "type": "ai.run.started",
            "subject": "run/r1",
            "time": "2026-02-03T04:05:06.000000Z",
            "datacontenttype": "application/json",
            "seq": 1,
            "attempt": 3,
            "traceparent": "00-ab-cd-01",
            "data": {"run_id": "r1", "pod_id": "p1"},
        }
    ]


def test_time_has_microseconds_and_ids_are_ulids(spool, emitter):
    event_id = emitter.emit(RunLog(message="m"))
    ULID.from_str(event_id)
    (event,) = events(spool)
    assert event["id"] == event_id
    assert len(event["time"]) == len("2026-01-01T00:00:00.000000Z")
    assert event["time"].endswith("Z")


@pytest.mark.parametrize("run_id", ['a"b\\c', "../../etc", "é/ü", "x" * 300, ".", "a.b"])
def test_any_run_id_is_one_folder_and_survives_the_wire(spool, clock, run_id):
    RunEmitter(spool, SOURCE, run_id, 1, clock, UlidGenerator(clock)).emit(RunLog(message="m"))
    (event,) = events(spool)
    assert event["subject"] == f"run/{run_id}"
    assert event["data"]["run_id"] == run_id
    assert event["id"] in spool.event_ids(run_id, 1)
    assert [folder.parent for folder in spool.stream_folders()] == [spool.directory]


def test_heartbeats_have_no_seq_and_attempts_count_for_themselves(spool, emitter, clock):
    emitter.emit(RunHeartbeat(cpu_pct=1.0))
    emitter.emit(RunHeartbeat())
    emitter.emit(metric())
    RunEmitter(spool, SOURCE, "r1", 2, clock, UlidGenerator(clock)).emit(metric())
    assert [(event["attempt"], event.get("seq")) for event in events(spool)] == [
        (1, None),
        (1, None),
        (1, 1),
        (2, 1),
    ]
    assert events(spool)[1]["data"] == {"run_id": "r1"}


def test_a_pod_has_neither_attempt_nor_seq(spool, clock):
    PodEmitter(spool, SOURCE, "p1", clock, UlidGenerator(clock)).emit(
        GpuShortage(required_gpus=1, available_gpus=0)
    )
    (event,) = events(spool)
    assert event["subject"] == "pod/p1"
    assert {"seq", "attempt"}.isdisjoint(event)
    assert event["data"] == {"required_gpus": 1, "available_gpus": 0}


def test_a_metric_that_cannot_be_sent_leaves_a_warning_in_its_place(spool, emitter):
    ids = [emitter.emit(metric(1)), emitter.emit(metric(2, float("nan"))), emitter.emit(metric(3))]
    found = events(spool)
    assert [event["id"] for event in found] == ids
    assert [event["seq"] for event in found] == [1, 2, 3]
    assert found[1]["type"] == "ai.run.log"
    assert found[1]["data"]["level"] == "warn"
    assert found[1]["data"]["kv"]["step"] == 2


def test_a_fact_that_cannot_be_sent_raises_and_takes_no_number(spool, emitter):
    emitter.emit(metric(1))
    with pytest.raises(ValueError, match=r"field summary\.score is nan"):
        emitter.emit(StageCompleted(stage="s", summary={"score": float("nan")}))
    emitter.emit(metric(2))
    assert [event["seq"] for event in events(spool)] == [1, 2]


def test_a_line_that_ingest_would_find_too_long_is_refused_here(spool, emitter):
    with pytest.raises(ValueError, match="1 MiB"):
        emitter.emit(RunFailed(code="INTERNAL", message="x" * LINE_LIMIT_BYTES))
    emitter.emit(RunLog(message="m", kv={"huge": "x" * LINE_LIMIT_BYTES}))
    (event,) = events(spool)
    assert event["data"]["message"] == "m"
    assert "1 MiB" in event["data"]["kv"]["left_out"]


class Disk:
    """Lets so many bytes through, and deleting frees nothing until the test says so."""

    def __init__(self) -> None:
        self.room = 1 << 40

    def write(self, fd: int, data: bytes) -> int:
        if len(data) > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= len(data)
        return os.write(fd, data)


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def tight(tmp_path, clock, disk):
    directory = tmp_path / "tight"
    directory.mkdir()
    spool = Spool(directory, max_bytes=1 << 20, write=disk.write)
    yield spool, RunEmitter(spool, SOURCE, "r1", 1, clock, UlidGenerator(clock))
    spool.close()


def test_on_a_full_disk_samples_are_dropped_counted_and_reported(tight, disk):
    spool, emitter = tight
    emitter.emit(metric(1))
    disk.room = 0
    for step in range(5):
        emitter.emit(metric(step))
    assert spool.dropped == 5
    disk.room = 1 << 20
    emitter.emit(metric(9))
    first, ninth, warning = events(spool)
    assert [event["seq"] for event in (first, ninth, warning)] == [1, 2, 3]
    assert warning["data"]["message"].startswith("5 log and metric events could not be recorded")
    emitter.emit(metric(10))
    assert len(events(spool)) == 4, "reported once"


def test_the_word_about_dropped_samples_waits_until_it_finds_room_itself(tight, disk):
    spool, emitter = tight
    emitter.emit(metric(1))
    (line,) = spool.lines()
    disk.room = 0
    for _ in range(5):
        emitter.emit(metric(1))
    disk.room = len(line) + 1  # for one more metric, not for the warning that follows it
    emitter.emit(metric(1))
    assert [event["type"] for event in events(spool)] == ["ai.run.stage_metric"] * 2
    disk.room = 1 << 20
    emitter.emit(metric(1))
    warning = events(spool)[-1]
    assert warning["data"]["message"].startswith("6 log and metric events could not be recorded"), (
        "itself included"
    )


def test_a_fact_takes_the_room_of_samples_then_the_reserve_and_only_then_raises(tight, disk, monkeypatch):
    spool, emitter = tight
    assert spool.fill_reserve()
    reserve = spool.directory / "reserve"
    freed = {"samples": 0, "reserve": 0}
    unlink = type(reserve).unlink

    def free(path, missing_ok=False):
        if path.exists():
            kind = "reserve" if path.name == "reserve" else "samples"
            freed[kind] += 1
            disk.room += 600
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(type(reserve), "unlink", free)
    while not any(path.name.startswith("samples.00000002") for path in spool.directory.rglob("*")):
        emitter.emit(RunLog(message="x" * 5000))
    disk.room = 0
    emitter.emit(RunFailed(code="INTERNAL", message="first"))
    assert freed == {"samples": 1, "reserve": 0}
    disk.room = 0
    emitter.emit(RunFailed(code="INTERNAL", message="second"))
    assert freed == {"samples": 1, "reserve": 1}
    disk.room = 0
    with pytest.raises(
        OSError, match=r"No space left.*could not be recorded; free space and inodes under"
    ) as caught:
        emitter.emit(RunFailed(code="INTERNAL", message="third"))
    assert caught.value.errno == errno.ENOSPC
    assert [e["data"]["message"] for e in events(spool) if e["type"] == "ai.run.failed"] == ["first", "second"]


def test_on_a_full_disk_a_fact_takes_delivered_samples_before_undelivered_ones(tight, disk):
    spool, emitter = tight
    delivered, kept = ("samples.00000001", "samples.00000002"), "samples.00000003"

    def fill_up_to(segment: str) -> None:
        while not list(spool.directory.rglob(f"{segment}.ndjson")):
            emitter.emit(RunLog(message="x" * 5000))

    fill_up_to("samples.00000003")
    backlog = Backlog(spool.stream_folders()[0])
    backlog.acknowledge(backlog.next_lines(1000, 1 << 20, with_deferred=True), [])
    fill_up_to("samples.00000005")
    # The undelivered ones are made to look older: being delivered counts for more.
    os.utime(next(spool.directory.rglob(f"{kept}.*")), (0, 0))
    disk.room = 0
    with pytest.raises(OSError, match="No space left"):
        emitter.emit(RunFailed(code="INTERNAL", message="m"))
    left = {path.name for path in spool.directory.rglob("samples.*")}
    assert f"{kept}.ndjson" in left
    assert left.isdisjoint(f"{name}.ndjson" for name in delivered)


@pytest.mark.parametrize("kind", PAYLOADS.values(), ids=PAYLOADS)
def test_ingest_reads_every_kind_of_event_as_it_was_given(spool, emitter, kind):
    payload = example(kind)
    emitter.emit(payload)
    (line,) = spool.lines()
    arrival = read_line(line)
    assert {name: getattr(arrival.payload, name) for name in asdict(payload)} == asdict(payload)
    assert arrival.event.attempt == 1
    assert arrival.event.run_id == "r1"
    assert arrival.event.seq == (None if kind.transient else 1)


def test_the_deepest_data_that_is_emitted_is_taken_by_ingest(spool, emitter):
    deepest = None
    for depth in range(1, 100):
        value: object = 1
        for _ in range(depth):
            value = [value]
        try:
            emitter.emit(StageCompleted(stage="s", summary={"value": value}))
            deepest = depth
        except ValueError:
            break
    assert deepest
    for line in spool.lines():
        read_line(line)
