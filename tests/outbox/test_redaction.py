"""No known secret reaches a spool through an emitter, nor ingest through a shipper."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from pod_worker.core.clock import SystemClock
from pod_worker.core.credentials.secret import Redactor
from pod_worker.core.payload import Payload, RunFailed, RunLog, StageCompleted, StageMetric
from pod_worker.outbox import RunEmitter, Spool, UlidGenerator
from pod_worker.outbox.redaction import redact_line
from pod_worker.outbox.shipper import Shipper
from pod_worker.outbox.spool import run_stream
from tests.outbox.ingest_server import SOURCE, IngestServer

SECRET = 'pa"ss\\wörd-0123'
DIGITS = "12345678"
REDACTOR = Redactor([SECRET, DIGITS])
CLOCK = SystemClock()


def emitter(spool: Spool, run_id: str = "r1", redactor: Redactor | None = REDACTOR) -> RunEmitter:
    return RunEmitter(spool, SOURCE, run_id, 1, CLOCK, UlidGenerator(CLOCK), redactor=redactor)


def is_clean(data: bytes) -> bool:
    return not REDACTOR.is_in(data)


@pytest.mark.parametrize(
    "payload",
    [
        RunLog(message=f"token {SECRET}", kv={SECRET: {"nested": [SECRET, 1.5]}}),
        RunLog(message=json.dumps({"token": SECRET})),
        RunLog(message=f"error: {SECRET!r}"),
        RunFailed(code="USER_ERROR", message=SECRET, traceback=f"Traceback\n{SECRET}\n"),
        StageCompleted(stage="s", summary={"url": f"https://u:{SECRET}@h"}),
    ],
)
def test_what_is_emitted_is_masked_on_disk(spool: Spool, payload: Payload) -> None:
    emitter(spool).emit(payload)
    (line,) = spool.lines()
    assert is_clean(line)
    assert "***" in str(json.loads(line)["data"])


def test_numbers_and_the_run_id_stay(spool: Spool) -> None:
    """An event that cannot be read any more, or that names another run, would be lost."""
    emitter(spool, run_id=DIGITS).emit(StageMetric(stage="s", name="loss", value=0.12345678, step=12345678))
    (line,) = spool.lines()
    event = json.loads(line)
    assert event["data"] == {
        "run_id": DIGITS, "stage": "s", "name": "loss", "value": 0.12345678, "step": 12345678,
    }  # fmt: skip
    assert event["subject"] == f"run/{DIGITS}"


def test_a_line_that_no_emitter_wrote_is_masked_when_it_is_sent(
    ingest: IngestServer, spool: Spool, ship: Callable[..., Shipper]
) -> None:
    emitter(spool, redactor=None).emit(RunLog(message=f"past the emitter: {SECRET}", kv={"a": SECRET}))
    clean = emitter(spool, redactor=None).emit(RunLog(message="nothing in it"))
    with open(spool.directory / run_stream("r1", 1) / "samples.00000001.ndjson", "ab") as file:
        file.write(f"not JSON {SECRET}\n".encode())
    shipper = ship(redactor=REDACTOR)
    assert shipper.flush(20)
    (masked,) = (event for event in ingest.events if event["id"] != clean)
    assert masked["data"]["message"] == "past the emitter: ***"
    assert masked["data"]["kv"] == {"a": "***"}
    letter = spool.dead_letter.read_bytes()
    assert is_clean(letter)
    assert b"not JSON ***" in letter


@pytest.mark.parametrize("line", [b'["%b"]\n', b'"%b"\n', b"%b\n", b'{"data": "%b"}\n', b'{"data": {"%b": 1}}\n'])
def test_any_line_can_be_redacted(line: bytes) -> None:
    secret: Any = json.dumps(SECRET, ensure_ascii=False)[1:-1].encode()
    redacted = redact_line(REDACTOR, line % secret)
    assert is_clean(redacted)
    assert redacted.endswith(b"\n")


def test_an_emitter_without_secrets_does_no_work(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Redactor, "is_in", lambda *_: pytest.fail("searched for nothing"))
    emitter(spool, redactor=Redactor()).emit(RunLog(message="x"))
