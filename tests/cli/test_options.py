"""Argument forms that several commands share."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pod_worker.cli.exit_codes import CommandError
from pod_worker.cli.options import parse_duration, parse_time


def test_the_command_line_reads_durations_as_job_files_do() -> None:
    assert parse_duration("1h30m") == timedelta(minutes=90)
    before = parse_time("1d12h")
    assert before is not None
    assert abs((datetime.now(UTC) - before) - timedelta(hours=36)) < timedelta(minutes=1)


@pytest.mark.parametrize("text", ["30", "soon", "11000d"])
def test_a_number_without_a_unit_is_refused(text: str) -> None:
    """`runs prune --older-than 30` is meant as days; read as seconds it would delete almost everything."""
    with pytest.raises(CommandError, match="is no duration"):
        parse_duration(text)


def test_a_bare_date_is_a_date() -> None:
    assert parse_time("20260131T000000Z") == datetime(2026, 1, 31, tzinfo=UTC)
