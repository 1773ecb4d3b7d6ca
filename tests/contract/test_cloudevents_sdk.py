"""Our envelope, read and written by the CloudEvents project's own library."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cloudevents.conversion import to_json
from cloudevents.http import CloudEvent, from_json

from pod_worker.control.events.decoding import read_line
from pod_worker.core.clock import SystemClock
from pod_worker.core.payload import StageProgress
from pod_worker.outbox.emitter import RunEmitter
from pod_worker.outbox.ids import UlidGenerator
from pod_worker.outbox.spool import Spool


def test_the_official_library_reads_what_the_emitter_writes(tmp_path: Path) -> None:
    clock = SystemClock()
    spool = Spool.open(tmp_path, "w")
    event_id = RunEmitter(spool, "runpod://pod/p", "r1", 3, clock, UlidGenerator(clock)).emit(
        StageProgress(stage="training", progress=0.5)
    )
    [line] = spool.lines()
    spool.close()

    event = from_json(line)

    assert (event["id"], event["type"], event["subject"]) == (event_id, "ai.run.stage_progress", "run/r1")
    assert (event["attempt"], event["seq"]) == (3, 1)
    assert event.data == {"run_id": "r1", "stage": "training", "progress": 0.5}


@pytest.mark.parametrize("extensions", [{}, {"seq": 4, "attempt": 2}])
def test_ingest_reads_what_the_official_library_writes(extensions: dict[str, int]) -> None:
    attributes = {"type": "ai.run.log", "source": "other://client", "subject": "run/r1", **extensions}
    written = to_json(CloudEvent(attributes, {"run_id": "r1", "level": "info", "message": "hello"}))

    arrival = read_line(written)

    assert arrival.run_id == "r1"
    assert (arrival.event.seq, arrival.event.attempt) == (extensions.get("seq"), extensions.get("attempt"))
    assert json.loads(written)["id"] == arrival.event.id
