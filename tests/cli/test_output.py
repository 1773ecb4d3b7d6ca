"""What commands print: strict JSON in any encoding, and no foreign control characters."""

from __future__ import annotations

import io
import json
import sys
from datetime import UTC, datetime

import pytest

from pod_worker.cli import output


def captured(monkeypatch: pytest.MonkeyPatch, encoding: str) -> io.BytesIO:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, write_through=True))
    return raw


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii", "cp1252"])
def test_json_survives_every_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    value = {"text": "ä 日本 🚀 \ud800 \x9b \u202e", "none": None}
    raw = captured(monkeypatch, encoding)
    output.print_json(value)
    text = raw.getvalue().decode(encoding)
    assert json.loads(text) == value
    assert "\x9b" not in text
    assert "\u202e" not in text


def test_json_is_strict_and_shows_ids_and_dates(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json(
        [{"_id": "r", "loss": float("nan"), "top": float("inf"), "at": datetime(2026, 1, 2, tzinfo=UTC), 1: b"x"}]
    )
    shown = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert shown == [{"id": "r", "_id": "r", "loss": None, "top": None, "at": "2026-01-02T00:00:00Z", "1": "b'x'"}]


def test_a_cell_is_one_line_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(["a", "b"], [["x\ty\nz", "\x1b]0;t\x07name"]])
    assert capsys.readouterr().out == "a\tb\nx y z\tname\n"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-1, "0s"),
        (59.6, "1m00s"),
        (299.9, "5m00s"),
        (599.7, "10m"),
        (3599.9, "1h00m"),
        (86399.6, "1d0h"),
        (3661, "1h01m"),
    ],
)
def test_a_length_of_time_never_shows_sixty_of_a_unit(seconds: float, shown: str) -> None:
    assert output.span(seconds) == shown


def test_a_cut_column_keeps_each_row_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long name took five lines of `runs list` in a terminal of 100 columns."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    raw = captured(monkeypatch, "utf-8")
    row = ["01M8KGJ9RV3ZV357Z8S6KTY80V", "experiment", "a-long-name-" * 8, "2s ago"]
    output.print_table(["id", "pipeline", "name", "created"], [row], cut=("name",))
    lines = [line for line in raw.getvalue().decode().splitlines() if line.strip()]
    assert len(lines) == 3, "a header, a rule and one row"
    assert "…" in lines[2]
