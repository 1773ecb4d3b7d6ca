"""Sweeps: one job for each combination."""

from __future__ import annotations

import pytest

from pod_worker.command.job.sweep import MAX_JOBS, combinations, sweep_values, with_values
from pod_worker.core.failure import RunError


def test_every_combination_is_a_job() -> None:
    found = combinations(sweep_values(["lr=1e-4,3e-4", "seed=0..2"]))
    assert len(found) == 6
    assert found[0] == {"lr": "1e-4", "seed": "0"}
    assert found[-1] == {"lr": "3e-4", "seed": "2"}


def test_no_sweep_is_one_job() -> None:
    assert combinations(sweep_values([])) == [{}]


def test_values_go_into_the_command_the_name_and_fields() -> None:
    fields = {"run": ["python", "t.py", "--lr", "{lr}"], "name": "lr-{lr}", "envs": {"SEED": "0"}}
    changed = with_values(fields, {"lr": "0.1", "envs.SEED": "7"})
    assert changed == {"run": ["python", "t.py", "--lr", "0.1"], "name": "lr-0.1", "envs": {"SEED": 7}}


def test_other_braces_stay() -> None:
    assert with_values({"run": "echo ${HOME} {lr} {x}"}, {"lr": "1"})["run"] == "echo ${HOME} 1 {x}"


def test_a_value_that_the_command_does_not_use_is_refused() -> None:
    with pytest.raises(RunError, match=r"does not use \{lr\}.*envs\.lr"):
        with_values({"run": "python t.py"}, {"lr": "1"})


@pytest.mark.parametrize(
    "words", [["lr"], ["=1"], ["lr="], ["lr=1,,2"], ["lr=1", "lr=2"], ["a=5..1"], [f"a=0..{MAX_JOBS}"], ["a b=1"]]
)
def test_a_sweep_that_means_nothing_is_refused(words: list[str]) -> None:
    with pytest.raises(RunError):
        sweep_values(words)


def test_too_many_combinations_are_refused_before_they_are_made() -> None:
    with pytest.raises(RunError, match="combinations"):
        sweep_values([f"{name}=0..99" for name in "abcdef"])
