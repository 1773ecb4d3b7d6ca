"""What a run prints becomes bounded logs, whatever it is."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pod_worker.core.clock import ManualClock
from pod_worker.core.payload import RunLog
from pod_worker.worker.capture import output_capture
from pod_worker.worker.capture.output_capture import OutputCapture


def capture(data: bytes, tmp_path: Path) -> tuple[list[RunLog], OutputCapture]:
    logs: list[RunLog] = []
    made = OutputCapture(io.BufferedReader(io.BytesIO(data)), tmp_path / "output.log", logs.append, ManualClock())
    made.run()
    return logs, made


def test_lines_become_log_events_without_control_characters(tmp_path: Path) -> None:
    logs, made = capture(b"hello\n\x1b[31mred\x1b[0m\rprogress 1\rprogress 2\nno newline", tmp_path)
    assert [log.message for log in logs] == ["hello", "progress 2", "no newline"]
    assert made.tail == [log.message for log in logs]


def test_a_progress_bar_of_many_updates_becomes_few_lines_and_its_end_is_kept(tmp_path: Path) -> None:
    logs: list[RunLog] = []
    clock = ManualClock()
    made = OutputCapture(io.BufferedReader(io.BytesIO()), tmp_path / "output.log", logs.append, clock)
    for step in range(10_000):
        clock.advance(0.01)  # 100 s together
        made._record(b"\rstep %d" % step)
    made._record(b"\nafter\r\n")
    assert 5 <= len(logs) <= 15
    assert [log.message for log in logs[-2:]] == ["step 9999", "after"]


def test_binary_output_is_replaced_not_fatal(tmp_path: Path) -> None:
    logs, _ = capture(bytes(range(256)) * 4 + b"\n", tmp_path)
    assert logs
    assert all(log.message.isprintable() or "\t" in log.message or "�" in log.message for log in logs)


def test_a_line_without_end_is_cut_and_the_cut_is_reported(tmp_path: Path) -> None:
    logs, _ = capture(b"x" * 1_000_000 + b"\nnext\n" + b"y" * 200_000, tmp_path)
    limit = output_capture.LINE_CHARACTERS
    cut = f" [line cut after {limit} bytes]"
    assert [log.message for log in logs] == ["x" * limit + cut, "next", "y" * limit + cut]


def test_a_long_flood_is_limited_per_second_with_its_reports(tmp_path: Path) -> None:
    """A report of skipped lines before each shown one would double the events."""
    logs: list[RunLog] = []
    clock = ManualClock()
    made = OutputCapture(io.BufferedReader(io.BytesIO()), tmp_path / "output.log", logs.append, clock)
    seconds, reads = 60, 100
    for _ in range(seconds * reads):
        clock.advance(1 / reads)
        made._record(b"line\n" * 20)
    assert len(logs) <= output_capture.BURST_LINES + seconds * output_capture.LINES_PER_SECOND + 1
    assert sum(log.message == "line" for log in logs) > seconds * output_capture.LINES_PER_SECOND / 3


def test_escape_sequences_of_every_kind_are_removed_whole(tmp_path: Path) -> None:
    data = "\x1b]0;title\x07a\x1b]52;c;aGk=\x1b\\b\x9b31mc\x1bPq\x1b\\d\x00e\u202ef\n"
    logs, _ = capture(data.encode(), tmp_path)
    assert [log.message for log in logs] == ["abcdef"]


def make_folder(path: Path) -> None:
    path.mkdir()


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_link(path: Path) -> None:
    path.symlink_to(path.parent / "elsewhere")


def remove_parent(path: Path) -> None:
    shutil.rmtree(path.parent)


@pytest.mark.parametrize("obstacle", [make_folder, make_pipe, make_link, remove_parent])
def test_an_unusable_file_costs_the_file_and_never_the_reading(
    tmp_path: Path, obstacle: Callable[[Path], None]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    obstacle(folder / "output.log")
    logs, _ = capture(b"x" * 100_000 + b"\nlast\n", folder)
    assert logs[-1].message == "last"
    assert not (folder / "elsewhere").exists()


def test_a_file_that_cannot_be_rotated_costs_the_rest_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_capture, "FILE_BYTES", 70_000)
    (tmp_path / "output.1").mkdir()
    logs, _ = capture(b"".join(b"line %d\n" % number for number in range(100_000)), tmp_path)
    assert logs[-1].message.startswith("9")


def test_a_flood_is_thinned_counted_and_its_end_kept(tmp_path: Path) -> None:
    data = b"".join(b"line %d\n" % number for number in range(20_000))
    logs, made = capture(data, tmp_path)
    lines = [log for log in logs if log.level == "info"]
    assert len(lines) == output_capture.BURST_LINES  # the clock stands still: no more than the burst
    [skipped] = [log for log in logs if log.level == "warn"]
    assert skipped.message.startswith(f"{20_000 - output_capture.BURST_LINES} lines")
    assert made.tail[-1] == "line 19999"


def test_the_file_on_the_pod_is_bounded_and_keeps_the_end(tmp_path: Path) -> None:
    original, output_capture.FILE_BYTES = output_capture.FILE_BYTES, 200_000
    try:
        capture(b"".join(b"line %d\n" % number for number in range(100_000)), tmp_path)
    finally:
        output_capture.FILE_BYTES = original
    sizes = [path.stat().st_size for path in tmp_path.glob("output.*")]
    assert sum(sizes) <= 2 * 200_000 + 2 * 65_536
    assert (tmp_path / "output.log").read_bytes().endswith(b"line 99999\n")
