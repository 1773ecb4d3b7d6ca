"""The events file of a job: what is recorded, refused and thinned."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pod_worker.command.reports import rate_limit
from pod_worker.command.reports.events_file import LINE_BYTES, EventsFileReader
from pod_worker.core.payload import Payload, StageMetric, StageProgress
from pod_worker.core.stage import Context


class Recorder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[Payload] = []
        self.lines: list[tuple[str, str]] = []
        context = SimpleNamespace(
            stage="command",
            emit=self.events.append,
            log=lambda message, level="info": self.lines.append((message, level)),
        )
        self.requests = 0
        self.reader = EventsFileReader(path, cast(Context, context), self.request)

    def request(self) -> None:
        self.requests += 1

    def write(self, *lines: Any) -> None:
        with self.path.open("a") as file:
            file.writelines((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)

    @property
    def values(self) -> list[float]:
        return [each.value for each in self.events if isinstance(each, StageMetric)]

    @property
    def text(self) -> str:
        return "\n".join(message for message, _ in self.lines)


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "events.ndjson")


def metric(value: float, name: str = "loss") -> dict[str, Any]:
    return {"metric": name, "value": value}


def test_each_kind_of_line_is_recorded_once_and_by_close_at_the_latest(recorder: Recorder) -> None:
    recorder.reader.start()
    recorder.write(
        {"metric": "loss", "value": 0.3, "step": 10},
        {"progress": 0.4},
        {"log": "a", "level": "warning"},
        {"checkpoint": True},
    )
    recorder.reader.close()
    assert recorder.events == [
        StageMetric(stage="command", name="loss", value=0.3, step=10),
        StageProgress(stage="command", progress=0.4),
    ]
    assert recorder.lines == [("a", "warning")]
    assert recorder.requests == 1


def test_an_unfinished_line_waits_and_is_read_at_close(recorder: Recorder) -> None:
    recorder.path.write_text('{"metric":"loss",')
    recorder.reader.poll()
    with recorder.path.open("a") as file:
        file.write('"value":1}\n{"metric":"loss","value":2}')
    recorder.reader.poll()
    assert recorder.values == [1]
    recorder.reader.close()
    assert recorder.values == [1, 2]
    assert recorder.lines == []


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ('{"metric":"loss","value":NaN}', "NaN"),
        ('{"metric":"loss","value":-Infinity}', "-Infinity"),
        ('{"metric":"loss","value":1e999}', "too large"),
        ('{"metric":"loss","value":"1"}', "'loss' must be a number"),
        ('{"metric":"loss","value":1,"step":1.5}', "step"),
        ('{"progress":2}', "0 to 1"),
        ('{"log":1}', "log must be"),
        ('{"checkpoint":1}', "no JSON object"),
        ("[" * 5000, "no JSON"),
        ("1", "no JSON object"),
        ("\udcff", "no JSON"),
    ],
)
def test_an_invalid_line_is_named_with_its_number(recorder: Recorder, line: str, cause: str) -> None:
    recorder.path.write_bytes(b"\n" + line.encode(errors="surrogateescape") + b'\n{"metric":"a","value":1}\n')
    recorder.reader.close()
    assert "line 2 " in recorder.text
    assert cause in recorder.text
    assert recorder.values == [1]


def test_ten_invalid_lines_are_named_and_the_others_counted(recorder: Recorder) -> None:
    recorder.write(*["x"] * 25)
    recorder.reader.close()
    assert len(recorder.lines) == 11
    assert "15 more" in recorder.text


def test_a_line_above_the_limit_is_skipped_and_the_next_is_read(recorder: Recorder) -> None:
    recorder.write({"log": "x" * 3 * LINE_BYTES}, metric(1), "x")
    recorder.reader.close()
    assert recorder.values == [1]
    assert "line 1 of the events file was not recorded: longer than" in recorder.text
    assert "line 3 " in recorder.text


@pytest.mark.parametrize("is_replaced", [True, False])
def test_a_file_that_is_replaced_or_shortened_is_read_from_its_beginning(
    recorder: Recorder, *, is_replaced: bool
) -> None:
    recorder.write(metric(1), metric(2))
    recorder.reader.poll()
    if is_replaced:
        recorder.write(metric(3))  # not yet read
        recorder.path.rename(recorder.path.with_name("former"))
    else:
        os.truncate(recorder.path, 0)
    recorder.write(metric(4))
    recorder.reader.close()
    assert recorder.values == ([1, 2, 3, 4] if is_replaced else [1, 2, 4])


def test_a_link_is_not_followed(recorder: Recorder) -> None:
    target = recorder.path.with_name("target")
    target.write_text(json.dumps(metric(1)) + "\n")
    recorder.path.symlink_to(target)
    recorder.reader.poll()
    recorder.reader.close()
    assert recorder.values == []
    assert recorder.text.count("cannot be read") == 1


def test_a_pipe_is_refused_and_does_not_block(recorder: Recorder) -> None:
    os.mkfifo(recorder.path)
    recorder.reader.close()
    assert "regular file" in recorder.text


def test_a_flood_is_thinned_for_each_name_and_keeps_the_newest_value(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limit, "BURST", 10)
    monkeypatch.setattr(rate_limit, "VALUES_PER_SECOND", 0.0)
    recorder.write(*[metric(value) for value in range(1000)], metric(-1, "accuracy"))
    recorder.reader.close()
    assert recorder.values == [*range(10), -1, 999]
    assert recorder.text.count("989 metric values were thinned") == 1


def test_a_line_above_the_limit_is_held_no_longer(recorder: Recorder) -> None:
    recorder.path.write_bytes(b"x" * 3 * LINE_BYTES)
    recorder.reader.poll()
    assert "longer than" in recorder.text
    recorder.reader.close()
    assert len(recorder.lines) == 1
