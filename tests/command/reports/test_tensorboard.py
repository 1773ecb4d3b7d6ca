"""TensorBoard event files of a job: real writers, records that are torn or damaged, limits."""

from __future__ import annotations

import base64
import os
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from pod_worker.command.reports import event_folders, rate_limit, record_file, tensorboard
from pod_worker.command.reports.record_file import masked_crc
from pod_worker.command.reports.tensorboard import TensorBoardReader
from pod_worker.core.payload import StageMetric
from pod_worker.core.stage import Context

# Whole files of three writers, recorded once.
TENSORBOARDX = (
    "GAAAAAAAAACjf0siCeKLw3P9wtpBGg1icmFpbi5FdmVudDoyHbZLjhoAAAAAAAAAEpvYLQmel8Nz/cLaQRAHKg0KCwoEbG9zcxUAAIA+Rxwao"
    "A=="
)
TENSORBOARD = (
    "SAAAAAAAAAD+kkidCTa/xHP9wtpBGg1icmFpbi5FdmVudDoyUi4KLHRlbnNvcmJvYXJkLnN1bW1hcnkud3JpdGVyLmV2ZW50X2ZpbGVfd3Jpd"
    "GVyE/O8oTYAAAAAAAAAT1eM7wkq+cRz/cLaQRADKikKJwoKZXBvY2hfbG9zc0IKCAESACoEAABAP0oNCgkKB3NjYWxhcnMgAWJ96eI="
)
TORCH = (  # a scalar as a tensor, and a text
    "SAAAAAAAAAD+kkidCanGonr9wtpBGg1icmFpbi5FdmVudDoyUi4KLHRlbnNvcmJvYXJkLnN1bW1hcnkud3JpdGVyLmV2ZW50X2ZpbGVfd3Jpd"
    "GVymuJN9SsAAAAAAAAAhhvDSwmkzaJ6/cLaQRAEKh4KHAoDbmV3QggIASoEAAAgQEoLCgkKB3NjYWxhcnNAsrW3OAAAAAAAAACjeX1XCVDOon"
    "r9wtpBKi0KKwoOdC90ZXh0X3N1bW1hcnlCDwgHEgQSAggBQgVoZWxsb0oICgYKBHRleHRrJ4hb"
)


class Recorder:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics: list[StageMetric] = []
        self.lines: list[str] = []
        self._files = 0
        context = SimpleNamespace(
            stage="command",
            work_dir=folder,
            emit=self.metrics.append,
            log=lambda message, level: self.lines.append(message),
        )
        self.reader = TensorBoardReader([folder], cast(Context, context))

    def file(self, folder: str = ".") -> Path:
        """A new event file; a writer's number stands in its name."""
        self._files += 1
        path = self.folder / folder / f"events.out.tfevents.1795945935.host.7.{self._files}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path

    def read(self) -> list[tuple[str, float, int | None]]:
        """What one poll finds."""
        before = len(self.metrics)
        self.reader.poll()
        return [(each.name, each.value, each.step) for each in self.metrics[before:]]

    def end(self) -> str:
        """The warnings of the end."""
        self.reader._thread.start()  # `start` would take the files for those of another run
        self.reader.close()
        return "\n".join(self.lines)


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path)


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    found = b""
    while value >= 0x80:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


def event(tag: str, value: float, step: int = 0) -> bytes:
    scalar = field(1, tag.encode()) + bytes([2 << 3 | 5]) + struct.pack("<f", value)
    return bytes([2 << 3]) + varint(step % 2**64) + field(5, field(1, scalar))


def framed(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return b"".join([length, struct.pack("<I", masked_crc(length)), data, struct.pack("<I", masked_crc(data))])


def record(tag: str, value: float, step: int = 0) -> bytes:
    return framed(event(tag, value, step))


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


@pytest.mark.parametrize(
    ("content", "metric"),
    [(TENSORBOARDX, ("loss", 0.25, 7)), (TENSORBOARD, ("epoch_loss", 0.75, 3)), (TORCH, ("new", 2.5, 4))],
)
def test_files_of_real_writers_are_read(recorder: Recorder, content: str, metric: tuple[str, float, int]) -> None:
    append(recorder.file(), base64.b64decode(content))
    assert recorder.read() == [metric]


def test_each_value_is_recorded_once_and_by_close_at_the_latest(recorder: Recorder) -> None:
    path = recorder.file("runs")
    recorder.reader.start()
    append(path, record("loss", 1, -3) + record("loss", 2, 10))
    recorder.reader.close()
    assert [(each.stage, each.value, each.step) for each in recorder.metrics] == [
        ("command", 1, -3),
        ("command", 2, 10),
    ]
    assert recorder.lines == []


def test_a_torn_record_waits_for_its_rest(recorder: Recorder) -> None:
    path, data = recorder.file(), record("loss", 1)
    for byte in data[:-1]:
        append(path, bytes([byte]))
        assert recorder.read() == []
    append(path, data[-1:] + record("loss", 2)[:20])
    assert recorder.read() == [("loss", 1, 0)]
    assert recorder.end() == ""  # a program that was killed leaves a torn record


def test_what_was_there_before_the_start_is_of_another_run(recorder: Recorder) -> None:
    path = recorder.file("old")
    append(path, record("loss", 1))
    recorder.reader.start()
    append(path, record("loss", 2))
    recorder.reader.close()
    assert [each.value for each in recorder.metrics] == [2]


def test_scalars_of_another_folder_have_its_path_seen_from_the_main_one(recorder: Recorder) -> None:
    for folder in ("logs/train", "logs/validation", "logs/train/split"):
        append(recorder.file(folder), record("loss", 1))
    assert [name for name, *_ in recorder.read()] == ["loss", "validation/loss", "split/loss"]
    append(recorder.file("logs/train"), record("loss", 2))
    assert recorder.read() == [("loss", 2, 0)]


def test_a_damaged_record_is_skipped_and_one_at_the_end_is_read_again(recorder: Recorder) -> None:
    path, bad = recorder.file(), bytearray(record("loss", 1))
    bad[-6] ^= 1  # in the value
    append(path, bytes(bad))
    assert recorder.read() == []
    with path.open("r+b") as file:  # its writer had not finished
        file.write(record("loss", 1))
    assert recorder.read() == [("loss", 1, 0)]
    append(path, bytes(bad) + framed(b"\xff" * 12) + record("loss", 2))
    assert recorder.read() == [("loss", 2, 0)]
    assert "2 damaged records" in recorder.end()
    assert f"{path} at byte {len(bad)}" in recorder.lines[0]


def test_a_damaged_length_ends_the_reading_of_its_file_alone(recorder: Recorder) -> None:
    path = recorder.file()
    append(path, record("loss", 1) + bytes(64))
    append(recorder.file(), record("loss", 2))
    assert [value for _, value, _ in recorder.read()] == [1, 2]
    assert "1 damaged records" in recorder.end()


@pytest.mark.parametrize("is_replaced", [True, False])
def test_a_file_that_is_replaced_or_shortened_is_read_from_its_beginning(
    recorder: Recorder, *, is_replaced: bool
) -> None:
    path = recorder.file()
    append(path, record("loss", 1) + record("loss", 2))
    recorder.read()
    other = path.with_name("other")
    other.write_bytes(record("loss", 3))
    other.replace(path) if is_replaced else os.truncate(path, 0)
    append(path, record("loss", 4))
    assert [value for _, value, _ in recorder.read()] == ([3, 4] if is_replaced else [4])


def test_values_that_are_no_metrics_are_counted(recorder: Recorder) -> None:
    append(recorder.file(), record("a", float("nan"), 3) + record("x" * 300, 1) + record("loss", 1))
    assert recorder.read() == [("loss", 1, 0)]
    assert "2 TensorBoard values were not recorded; the first: step 3: the value of 'a' is NaN" in recorder.end()


@pytest.mark.parametrize("data", [b"\x0b", b"\x2a\x05a", b"\x80" * 11, b"\x2a\x03\x0a\x01\xff", b"\x15\x00"])
def test_bytes_that_are_no_event_are_damage(recorder: Recorder, data: bytes) -> None:
    append(recorder.file(), framed(data) + record("loss", 1))
    assert recorder.read() == [("loss", 1, 0)]
    assert "1 damaged" in recorder.end()


def test_a_long_record_is_not_read(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_file, "RECORD_BYTES", 100)
    append(recorder.file(), record("x" * 101, 1) + record("loss", 2))
    assert recorder.read() == [("loss", 2, 0)]


def test_a_flood_is_thinned_and_keeps_the_newest_value(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limit, "BURST", 10)
    monkeypatch.setattr(rate_limit, "VALUES_PER_SECOND", 0.0)
    append(recorder.file(), b"".join(record("loss", value) for value in range(100)))
    recorder.read()
    assert "89 TensorBoard values were thinned" in recorder.end()
    assert [each.value for each in recorder.metrics] == [*range(10), 99]


def test_close_ends_although_there_is_more_to_read(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard, "CLOSE_SECONDS", -1.0)
    recorder.reader._thread.start()
    recorder.reader._thread.stop(60)
    append(recorder.file(), record("loss", 1))
    recorder.reader.close()
    assert recorder.metrics == []
    assert "was not read within" in recorder.lines[0]


@pytest.mark.parametrize(("link", "target"), [("runs", "outside/runs"), ("sub", "outside")])
def test_a_folder_that_a_link_leads_to_is_not_searched(recorder: Recorder, link: str, target: str) -> None:
    """A job in a sandbox could make the worker read what the job may not."""
    append(recorder.file("outside/runs"), record("loss", 1))
    (recorder.folder / link).symlink_to(recorder.folder / target)
    named = recorder.folder / ("runs" if link == "runs" else "sub/runs")
    recorder.reader = TensorBoardReader([named], recorder.reader._context)
    assert recorder.read() == []


def test_links_and_other_files_are_not_followed(
    recorder: Recorder, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "events.out.tfevents.1.host").write_bytes(record("loss", 1))
    (recorder.folder / "folder").symlink_to(outside)
    (recorder.folder / "tfevents").symlink_to(outside / "events.out.tfevents.1.host")
    os.mkfifo(recorder.folder / "tfevents.pipe")
    append(recorder.folder / "model.bin", record("loss", 2))
    assert recorder.read() == []


@pytest.mark.parametrize(("name", "limit"), [("ENTRIES", 3), ("FILES", 2)])
def test_a_search_has_limits(recorder: Recorder, monkeypatch: pytest.MonkeyPatch, name: str, limit: int) -> None:
    monkeypatch.setattr(event_folders, name, limit)
    for value in range(9):
        append(recorder.file(), record("loss", value))
    assert 0 < len(recorder.read()) <= limit
    recorder.read()
    assert len(recorder.lines) == 1
    assert "metrics: {tensorboard: FOLDER}" in recorder.lines[0]


def test_a_named_folder_without_a_file_is_warned_of(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.reader = TensorBoardReader([tmp_path / "runs"], recorder.reader._context, "runs")
    assert "no event file below 'runs'" in recorder.end()
