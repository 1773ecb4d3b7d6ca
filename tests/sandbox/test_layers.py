"""Which layers count as proved, and what a floor asks for."""

from __future__ import annotations

import os

import pytest

from pod_worker.core.execution import ExecutionEnd, ExecutionResult
from pod_worker.sandbox.client import SandboxClient
from pod_worker.sandbox.layers import DEFAULT_FLOOR, LAYERS, Attempt, judge, missing_layers, read_floor
from tests.sandbox.support import has_own_user

EXITED = ExecutionResult(end=ExecutionEnd.EXITED, exit_code=0)
KILLED = ExecutionResult(end=ExecutionEnd.SIGNALED, signal=9)


def attempts(**denied: bool) -> list[Attempt]:
    return [Attempt(layer, "try", is_denied) for layer, is_denied in denied.items()]


def test_every_layer_of_the_default_floor_is_proved_here(request: pytest.FixtureRequest) -> None:
    """The environment of the tests has Landlock and seccomp, as the project's images do."""
    runner: SandboxClient = request.getfixturevalue("runner")  # its start refuses what is below the floor
    assert set(DEFAULT_FLOOR) <= set(runner.layers)
    assert ("uid" in runner.layers) == has_own_user()


def test_one_attempt_that_worked_takes_its_layer_away() -> None:
    found = judge([*attempts(files=True, network=True), Attempt("files", "another", False)], EXITED, [])
    assert found == ("network",)


def test_a_layer_that_was_not_tried_is_not_proved() -> None:
    assert judge([], EXITED, []) == ()


def test_what_was_seen_from_outside_counts() -> None:
    assert judge(attempts(files=True, processes=True), EXITED, ["processes"]) == ("files",)


def test_a_keeper_that_ended_too_many_processes_proves_the_limit() -> None:
    assert judge(attempts(limits=True), KILLED, []) == ("limits",)


@pytest.mark.parametrize(
    ("text", "floor"), [("default", None), ("", None), ("files, network", ("files", "network")), ("uid", ("uid",))]
)
def test_a_floor_is_read(text: str, floor: tuple[str, ...] | None) -> None:
    assert read_floor(text) == floor


def test_an_unknown_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown layer walls"):
        read_floor("files,walls")


def test_root_needs_a_user_of_its_own_unless_the_floor_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert missing_layers(None, DEFAULT_FLOOR) == ["uid"]
    assert missing_layers(DEFAULT_FLOOR, DEFAULT_FLOOR) == []
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert missing_layers(None, DEFAULT_FLOOR) == []
    assert missing_layers(LAYERS, DEFAULT_FLOOR) == ["signals", "uid"]
