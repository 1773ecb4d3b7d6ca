"""The envelope's two rules: what an event is about, and which of two events is the newer one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pod_worker.core.event import Event, sortable_version, version_of

attempts = st.integers(0, 10**8 - 1)  # what the wire takes
seqs = st.none() | st.integers(0, 10**12 - 1)
times = st.datetimes(timezones=st.just(UTC)).map(lambda time: to_milliseconds(time))
ids = st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1, max_size=30)
versions = st.tuples(attempts, seqs, times, ids)


def to_milliseconds(time: datetime) -> datetime:
    """As the event log keeps it."""
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


def ordered(version: tuple[int, int | None, datetime, str]) -> tuple[int, int, datetime, str]:
    attempt, seq, time, event_id = version
    return attempt, seq or 0, time, event_id


@given(versions, versions)
def test_versions_sort_as_attempt_then_seq_then_time_then_id(
    first: tuple[int, int | None, datetime, str], second: tuple[int, int | None, datetime, str]
) -> None:
    forms: tuple[Callable[..., Any], ...] = (version_of, lambda *parts: sortable_version(version_of(*parts)))
    for form in forms:
        assert (form(*first) < form(*second)) == (ordered(first) < ordered(second))
        assert (form(*first) == form(*second)) == (ordered(first) == ordered(second))


@given(attempts, seqs, st.lists(times, min_size=2, max_size=2), ids)
def test_times_alone_sort_in_every_year_of_the_calendar(
    attempt: int, seq: int | None, moments: list[datetime], event_id: str
) -> None:
    first, second = (version_of(attempt, seq, moment, event_id) for moment in moments)
    assert (first < second) == (moments[0] < moments[1])


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_version_survives_the_event_log(time: datetime) -> None:
    assert version_of(1, 1, time, "a") == version_of(1, 1, to_milliseconds(time), "a")


def test_the_first_year_sorts_before_the_present() -> None:
    """Zero values of other languages' clocks arrive as year 1."""
    third, present = datetime(3, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
    assert version_of(1, None, third, "a") < version_of(1, None, present, "a")


@pytest.mark.parametrize(
    ("subject", "run_id"),
    [("run/a", "a"), ("run/a/b", "a/b"), ("run/", None), ("run", None), ("pod/a", None), ("ideation/a", None)],
)
def test_only_a_run_is_a_run(subject: str, run_id: str | None) -> None:
    event = Event("1", "test://", "ai.run.log", subject, datetime.now(UTC), {})
    assert event.run_id == run_id
