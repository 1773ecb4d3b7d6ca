"""Our envelope, read and written by the CloudEvents project's own library."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import pytest
from cloudevents.conversion import to_binary, to_json
from cloudevents.http import CloudEvent, from_json

from pod_worker.control.events.decoding import read_binary, read_line
from pod_worker.control.events.incoming import InvalidEventError
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


TEXTS = ["plain", "run/ü 100%", "a%41b", 'quo"ted', "日本", "%FF", "€ 🤔"]


@pytest.mark.parametrize("text", TEXTS)
def test_binary_mode_reads_what_the_official_library_writes(text: str) -> None:
    """Attributes travel as percent-encoded UTF-8 (HTTP binding 1.0.2, section 3.1.3.2)."""
    attributes = {"type": "ai.run.log", "source": "other://client", "subject": f"run/{text}", "seq": "7"}
    headers, body = to_binary(
        CloudEvent(attributes, {"run_id": f"run/{text}"[4:], "level": "info", "message": "x"})
    )
    encoded = {
        name: percent_encoded(value) if name.startswith("ce-") else value for name, value in headers.items()
    }

    event = read_binary(encoded, body).event

    assert (event.subject, event.run_id, event.seq) == (f"run/{text}", text, 7)
    assert event.id == headers["ce-id"]


# The binding's own examples, and what the specification says of quotes and of invalid UTF-8.
@pytest.mark.parametrize(
    ("header", "subject"),
    [
        ("run/Euro%20%E2%82%AC%20%F0%9F%98%80", "run/Euro € 😀"),
        ("run/%e2%82%ac", "run/€"),
        ('"run/quoted \\"x\\" %41"', 'run/quoted "x" A'),
        ("run/100%", "run/100%"),
        ("run/\xe2\x82\xac", "run/€"),  # UTF-8 bytes that are not encoded, as HTTP libraries show them
    ],
)
def test_header_values_are_decoded(header: str, subject: str) -> None:
    attributes = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "s", "ce-type": "ai.run.log"}
    attributes |= {"ce-time": "2026-01-01T00:00:00Z", "ce-subject": header}
    body = json.dumps({"run_id": subject[4:], "level": "info", "message": "x"}).encode()
    assert read_binary(attributes, body).event.subject == subject


@pytest.mark.parametrize("header", ["run/%FF", "run/%C3%28", "run/%ED%A0%80"])
def test_invalid_utf8_in_a_header_is_refused(header: str) -> None:
    attributes = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "s", "ce-type": "ai.run.log"}
    attributes |= {"ce-time": "2026-01-01T00:00:00Z", "ce-subject": header}
    with pytest.raises(InvalidEventError, match="percent-encoded UTF-8"):
        read_binary(attributes, b"{}")


@pytest.mark.parametrize("seq", ["9" * 5000, "-1", "²", "1e3", "0x1"])
def test_a_seq_that_is_no_count_is_refused(seq: str) -> None:
    attributes = {
        "ce-specversion": "1.0",
        "ce-id": "1",
        "ce-source": "s",
        "ce-type": "ai.run.log",
        "ce-seq": quote(seq),
    }
    attributes |= {"ce-time": "2026-01-01T00:00:00Z", "ce-subject": "run/r1"}
    with pytest.raises(InvalidEventError, match="seq"):
        read_binary(attributes, b'{"run_id": "r1", "level": "info", "message": "x"}')


def percent_encoded(value: str) -> str:
    """As the binding asks: everything but printable ASCII without space, quote and percent sign."""
    return quote(value, safe="".join(map(chr, range(0x21, 0x7F))).replace('"', "").replace("%", ""))
