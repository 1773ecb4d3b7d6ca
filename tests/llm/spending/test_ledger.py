"""The ledger on disk: what survives a crash, and what a resumed run knows of its spending."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pod_worker.core.clock import ManualClock
from pod_worker.core.research.completion import TokenUsage
from pod_worker.llm.cassettes.faults import ModelFault, ModelFaultKind
from pod_worker.llm.cassettes.replay import Replay
from pod_worker.llm.cassettes.replay_server import ReplayServer
from pod_worker.llm.client import MeteredClient
from pod_worker.llm.spending.ledger import CallLabels, CallLedger, CallStatus, Spending, read_ledger
from tests.llm.requests_and_answers import MODEL, USAGE, question

LABELS = CallLabels(operation="node.draft", model=MODEL, provider="openai", key="k")
RESERVED = TokenUsage(500, 400)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.ndjson"


def test_totals_are_the_same_after_a_restart(path: Path) -> None:
    ledger = CallLedger(path, ManualClock())
    ledger.settle(ledger.reserve(LABELS, RESERVED, 7_500), CallStatus.ANSWERED, USAGE, 5_730, call_seconds=1.5)
    ledger.settle(ledger.reserve(LABELS, RESERVED, 7_500), CallStatus.REFUSED)
    ledger.settle(ledger.reserve(LABELS, RESERVED, 7_500), CallStatus.UNKNOWN, RESERVED, 7_500)
    ledger.record_cached(LABELS)
    expected = Spending(13_230, 1_500, 600, 100, calls=2, refused=1, from_cache=1, seconds=1.5)
    assert ledger.total() == expected
    assert (
        read_ledger(path).operations() == CallLedger(path, ManualClock()).operations() == {"node.draft": expected}
    )


def test_a_call_without_an_end_counts_as_spent_at_its_reserved_price(path: Path) -> None:
    CallLedger(path, ManualClock()).reserve(LABELS, RESERVED, 7_500)
    total = CallLedger(path, ManualClock()).total()
    assert (total.micro_usd, total.tokens, total.calls) == (7_500, 900, 1)


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_tail_is_not_continued(path: Path, cut: int) -> None:
    ledger = CallLedger(path, ManualClock())
    ledger.settle(ledger.reserve(LABELS, RESERVED, 7_500), CallStatus.ANSWERED, USAGE, 5_730)
    path.write_bytes(path.read_bytes()[:-cut])
    resumed = CallLedger(path, ManualClock())
    # The row of the answer is torn: its reservation is what is left. A cut of the newline alone tears nothing.
    assert resumed.total().micro_usd == (5_730 if cut == 1 else 7_500)
    resumed.settle(resumed.reserve(LABELS, RESERVED, 7_500), CallStatus.ANSWERED, USAGE, 1)
    assert read_ledger(path).total.micro_usd == (5_731 if cut == 1 else 7_501)


def test_a_damaged_line_is_counted_and_the_others_are_read(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ledger = CallLedger(path, ManualClock())
    for _ in range(3):
        ledger.settle(ledger.reserve(LABELS, RESERVED, 7_500), CallStatus.ANSWERED, USAGE, 5_730)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = b"\x00" * 40 + b"\n"  # the second reservation: its call row stands alone
    path.write_bytes(b"".join(lines))
    with caplog.at_level(logging.WARNING):
        assert CallLedger(path, ManualClock()).total().micro_usd == 3 * 5_730
    assert "1 damaged line" in caplog.text


def test_time_of_earlier_sessions_counts(path: Path) -> None:
    clock = ManualClock()
    first = CallLedger(path, clock)
    clock.advance(100)
    first.record_cached(LABELS)
    clock.advance(1_000)  # no process runs
    other_pod = ManualClock()  # its monotonic clock starts elsewhere
    second = CallLedger(path, other_pod)
    other_pod.advance(20)
    assert second.elapsed_seconds() == pytest.approx(120)


def test_rows_are_on_disk_before_a_call_returns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = CallLedger(path, ManualClock())
    synced: list[int] = []
    monkeypatch.setattr("pod_worker.llm.spending.ledger.os.fsync", lambda fd: synced.append(os.fstat(fd).st_size))
    row = ledger.reserve(LABELS, RESERVED, 7_500)
    ledger.settle(row, CallStatus.ANSWERED, USAGE, 5_730)
    assert len(synced) == 2
    assert synced[-1] == path.stat().st_size


def test_a_full_disk_loses_no_later_row(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a row is written, then the disk is full; the next row stands on a line of its own."""
    ledger = CallLedger(path, ManualClock())
    written: list[int] = []

    def write(fd: int, data: bytes) -> int:
        written.append(len(data))
        if len(written) > 1:
            raise OSError(28, "No space left on device")
        return real_write(fd, data[: len(data) // 2])

    real_write = os.write
    monkeypatch.setattr("pod_worker.llm.spending.ledger.os.write", write)
    with pytest.raises(OSError, match="No space"):
        ledger.reserve(LABELS, RESERVED, 7_500)
    monkeypatch.undo()
    assert ledger.total().calls == 0, "it was not sent"
    ledger.reserve(LABELS, RESERVED, 7_500)
    state = read_ledger(path)
    assert (state.damaged_lines, state.total.calls, state.total.micro_usd) == (1, 1, 7_500)


# ── killed in the middle ────────────────────────────────────────────────────────────────────────────────────

PROGRAM = """
import sys
from pathlib import Path
from tests.llm.requests_and_answers import Stop, config_for, question
from pod_worker.llm.factory import open_client

class Server:
    url, openai_url = sys.argv[1], sys.argv[1] + "/v1"

client = open_client(config_for("openai", Server), Path(sys.argv[2]), Stop())
for number in range(4):
    client.complete(question(number))
print("finished", flush=True)
"""


def test_a_killed_run_pays_no_answer_twice(
    make_client: Callable[..., MeteredClient], server: ReplayServer, replay: Replay, tmp_path: Path
) -> None:
    """SIGKILL in the second call of a process; another process finishes. It takes the start of two interpreters."""
    folder = tmp_path / "llm"
    replay.faults.replace([ModelFault(ModelFaultKind.HANG, first=2)])
    with _run(server, folder) as process:
        _wait_until(lambda: replay.counts.to_json()["requests"] == 2, process)
        process.send_signal(signal.SIGKILL)
    with _run(server, folder) as process:
        assert process.communicate(timeout=60)[0].strip() == b"finished"
    counts = replay.counts.to_json()
    assert (counts["answered"], counts["duplicates"]) == (4, 0)
    total = make_client().total()  # a third process
    assert total.calls == 5
    assert total.output_tokens == 4 * USAGE.output_tokens + 400, "the killed call counts as reserved"


def test_a_run_killed_between_cache_and_ledger_settles_the_call(
    make_client: Callable[..., MeteredClient], replay: Replay, tmp_path: Path
) -> None:
    first = make_client()
    paid = first.complete(question(1)).micro_usd
    path = tmp_path / "llm" / "ledger.ndjson"
    lines = path.read_bytes().splitlines(keepends=True)
    assert json.loads(lines[-1])["type"] == "call"
    path.write_bytes(b"".join(lines[:-1]))
    assert read_ledger(path).total.micro_usd > paid
    resumed = make_client()
    assert resumed.total().micro_usd == paid
    assert resumed.complete(question(1)).is_cached
    assert replay.counts.to_json()["requests"] == 1


def _run(server: ReplayServer, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", PROGRAM, server.url, str(folder)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )


def _wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, "the process ended early"
        assert time.monotonic() < deadline
        time.sleep(0.005)
