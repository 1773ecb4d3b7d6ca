"""Requests to the control plane: what is repeated, for how long, and what errors say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pod_worker.control_plane_client import (
    ControlPlaneClient,
    RefusedRequestError,
    TemporaryRequestError,
    repeat,
)
from pod_worker.core.failure import CancelRequested


class Tries:
    def __init__(self, failures: int) -> None:
        self._answers: Iterator[Exception | None] = iter([TemporaryRequestError("away")] * failures)
        self.count = 0

    def __call__(self) -> str:
        self.count += 1
        if error := next(self._answers, None):
            raise error
        return "answer"


class Stopped:
    def is_set(self) -> bool:
        return True

    def check(self) -> None:
        raise CancelRequested


def test_a_temporary_error_is_repeated_until_there_is_an_answer() -> None:
    tries = Tries(3)
    assert repeat(tries, 60, first_seconds=0, cap_seconds=0) == "answer"
    assert tries.count == 4


def test_no_try_begins_after_the_time() -> None:
    tries = Tries(3)
    with pytest.raises(TemporaryRequestError, match="away"):
        repeat(tries, -1, first_seconds=0, cap_seconds=0)
    assert tries.count == 1


def test_a_refusal_is_not_repeated() -> None:
    def refuse() -> str:
        raise RefusedRequestError(409, "no", "fenced")

    with pytest.raises(RefusedRequestError):
        repeat(refuse, 60, first_seconds=0, cap_seconds=0)


def test_a_stop_ends_it_before_the_next_try() -> None:
    tries = Tries(0)
    with pytest.raises(CancelRequested):
        repeat(tries, 60, first_seconds=0, cap_seconds=0, stop=Stopped())
    assert tries.count == 0


def test_a_server_that_is_away_is_named_without_the_token() -> None:
    client = ControlPlaneClient("http://127.0.0.1:9/", "a-secret-token")
    with pytest.raises(TemporaryRequestError) as failed:
        client.request("GET", "/api/x", timeout=1)
    assert "no answer from the control plane (ConnectionError)" in str(failed.value)
    assert "a-secret-token" not in str(failed.value)
