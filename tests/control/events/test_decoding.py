"""One line: what is read from it, and why it is refused."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from pod_worker.control.events.decoding import DEPTH_LIMIT, read_binary, read_line
from pod_worker.control.events.incoming import InvalidEventError
from pod_worker.core import payload as p
from tests.control.lines import event


def read(found: Any) -> Any:
    return read_line(found if isinstance(found, bytes) else json.dumps(found).encode())


def refusal(found: Any) -> InvalidEventError:
    with pytest.raises(InvalidEventError) as caught:
        read(found)
    return caught.value


def test_an_event_of_ours() -> None:
    arrival = read(event("e1", "ai.run.stage_metric", seq=7, attempt=2, stage="training", name="loss", value=1))
    assert (arrival.event.seq, arrival.event.attempt, arrival.run_id) == (7, 2, "r1")
    assert msgspec.to_builtins(arrival.payload) == asdict(p.StageMetric(stage="training", name="loss", value=1.0))
    assert arrival.event.data["value"] == 1, "the log keeps what was sent"


@pytest.mark.parametrize(
    ("field", "limit"),
    [("kind", 256), ("role", 256), ("content_type", 256), ("sha256", 256), ("key", 1024)],
)
def test_words_and_keys_of_a_payload_have_a_length(field: str, limit: int) -> None:
    known = {"key": "runs/r1/1/a", "bytes": 1, "content_type": "text/plain", "kind": "data"}
    assert read(event("e1", "ai.artifact.registered", **known | {field: "x" * limit})).payload is not None
    found = refusal(event("e1", "ai.artifact.registered", **known | {field: "x" * (limit + 1)}))
    assert (found.code, field in found.error) == ("bad_data", True)


def test_the_originals_nested_extensions_are_read() -> None:
    arrival = read(event("e1", extensions={"seq": 3, "traceparent": "00-ab-cd-01"}))
    assert (arrival.event.seq, arrival.event.traceparent) == (3, "00-ab-cd-01")
    assert read(event("e1", seq=9, extensions={"seq": 3})).event.seq == 9, "the top level wins"


@pytest.mark.parametrize(
    ("time", "utc"),
    [
        ("2026-01-01T02:00:00+02:00", datetime(2026, 1, 1, tzinfo=UTC)),
        ("2025-12-31T23:30:00.5-00:30", datetime(2026, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC)),
        ("2026-01-01T00:00:00Z", datetime(2026, 1, 1, tzinfo=UTC)),
    ],
)
def test_any_offset_becomes_utc(time: str, utc: datetime) -> None:
    found = read(event("e1", time=time)).event.time
    assert found == utc
    assert found.tzinfo is UTC


@pytest.mark.parametrize("time", ["2026-01-01T00:00:00.123456789Z", "2026-01-01t00:00:00.123456z"])
def test_times_of_other_writers_are_read(time: str) -> None:
    found = read(event("e1", time=time)).event.time
    assert (found.year, found.microsecond in (123_456, 123_457), found.tzinfo) == (2026, True, UTC)


def test_a_leap_second_is_refused_with_its_id() -> None:
    found = refusal(event("e1", time="2016-12-31T23:59:60Z"))
    assert (found.code, found.event_id) == ("bad_event", "e1")


@pytest.mark.parametrize("step", [0, -1, 2**53 + 1, 10**15, 2**63 - 1])
def test_a_step_is_kept_exactly(step: int) -> None:
    found = read(event("e1", "ai.run.stage_metric", stage="s", name="loss", value=1e308, step=step))
    assert (found.payload.step, found.payload.value, found.event.data["step"]) == (step, 1e308, step)


@pytest.mark.parametrize("step", ["5", 1.5, True])
def test_a_step_that_is_no_integer_is_refused(step: Any) -> None:
    assert (
        refusal(event("e1", "ai.run.stage_metric", stage="s", name="loss", value=1, step=step)).code == "bad_data"
    )


@pytest.mark.parametrize("level", ["debug", "info", "warn", "warning", "error"])
def test_both_words_for_a_warning(level: str) -> None:
    assert read(event("e1", level=level)).payload.level == level


def test_from_is_a_field_like_any_other() -> None:
    changed = read(event("e1", "ai.run.status_changed", **{"from": "QUEUED", "to": "RUNNING"}))
    assert (changed.payload.from_, changed.payload.to) == ("QUEUED", "RUNNING")
    assert "from" in changed.event.data
    assert "`from`" in refusal(event("e1", "ai.run.status_changed", to="RUNNING")).error


def test_foreign_failure_codes_are_kept() -> None:
    assert read(event("e1", "ai.run.failed", code="OOMError", message="boom")).payload.code == "OOMError"


def test_an_unknown_type_of_ours_has_no_payload() -> None:
    assert read(event("e1", "ai.experiment.node_completed", anything=1)).payload is None


def test_a_long_message_is_cut_and_says_so() -> None:
    data = read(event("e1", message="é" * 60_000)).event.data
    assert len(data["message"].encode()) <= 64 * 1024
    assert data["message"].endswith("[cut: 120000 bytes, 65536 allowed]")


BAD = {
    "no JSON": (b"{nope", "bad_json"),
    "half a line": (b'{"specversion":"1.0"', "bad_json"),
    "NaN": (
        json.dumps(event("e1", "ai.run.stage_metric", stage="s", name="n", value=float("nan"))).encode(),
        "bad_json",
    ),
    "infinity": (b'{"specversion":"1.0","id":"x","data":{"v":1e999}}', "bad_event"),
    "not UTF-8": (json.dumps(event("e1")).encode().replace(b"hello", b"\xff\xfe"), "bad_json"),
    "half a surrogate": (json.dumps(event("e1")).encode().replace(b"hello", rb"\ud800"), "bad_json"),
    "an array": (b"[]", "bad_event"),
    "no id": ({**event("e1"), "id": ""}, "bad_event"),
    "a long id": (event("e" * 257), "bad_event"),
    "another version": ({**event("e1"), "specversion": "0.3"}, "bad_event"),
    "no time": ({name: value for name, value in event("e1").items() if name != "time"}, "bad_event"),
    "a time without offset": (event("e1", time="2026-01-01T00:00:00"), "bad_event"),
    "a time outside the calendar": (event("e1", time="0001-01-01T00:00:00+02:00"), "bad_event"),
    "data that is no object": ({**event("e1"), "data": [1]}, "bad_event"),
    "data that is no JSON": ({**event("e1"), "datacontenttype": "text/xml"}, "bad_event"),
    "a negative seq": (event("e1", seq=-1), "bad_event"),
    "a foreign type": (event("e1", "com.example.thing"), "unknown_type"),
    "a foreign subject": ({**event("e1"), "subject": "user/r1"}, "bad_subject"),
    "an empty subject": ({**event("e1"), "subject": "run/"}, "bad_subject"),
    "another run": ({**event("e1"), "subject": "run/r2"}, "run_mismatch"),
    "no run_id": ({**event("e1"), "data": {"message": "x"}}, "run_mismatch"),
    "a missing field": (event("e1", "ai.run.failed", code="X"), "bad_data"),
    "a wrong type": (event("e1", "ai.run.stage_progress", stage="s", progress="0.5"), "bad_data"),
    "a foreign level": (event("e1", level="loud"), "bad_data"),
    "a stage without name": (event("e1", "ai.run.stage_started", stage=""), "bad_data"),
    "an endless name": (event("e1", "ai.run.stage_metric", stage="s", name="n" * 257, value=1), "bad_data"),
    "far too deep": (json.dumps(event("e1")).encode().replace(b'"hello"', b"[" * 5000), "too_deep"),
    "too deep": (event("e1", kv={"x": json.loads("[" * DEPTH_LIMIT + "]" * DEPTH_LIMIT)}), "too_deep"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_says_why(name: str) -> None:
    line, code = BAD[name]
    why = refusal(line)
    assert why.code == code, why.error
    assert why.error


def test_a_refusal_names_the_event_where_it_can() -> None:
    assert refusal(event("e1", time="yesterday")).event_id == "e1"
    assert refusal(event("e1", "ai.run.failed")).event_id == "e1"
    assert refusal(b"{").event_id is None


def test_binary_mode() -> None:
    headers = {
        "ce-specversion": "1.0",
        "ce-id": "b1",
        "ce-source": "curl",
        "ce-type": "ai.run.log",
        "ce-subject": "run/r1",
        "ce-time": "2026-01-01T00:00:00Z",
        "ce-seq": "4",
    }
    arrival = read_binary(headers, b'{"run_id":"r1","message":"hi"}')
    assert (arrival.event.id, arrival.event.seq, arrival.event.data["message"]) == ("b1", 4, "hi")
    with pytest.raises(InvalidEventError, match="seq"):
        read_binary(headers | {"ce-seq": "four"}, b'{"run_id":"r1","message":"hi"}')
    with pytest.raises(InvalidEventError, match="not JSON"):
        read_binary(headers, b"hi")
