"""A job's fields: what is accepted, and how each fault is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pod_worker.command.job.spec import job_schema, read_job
from pod_worker.core.failure import FailureCode, RunError

SCHEMA = Path(__file__).resolve().parents[3] / "docs" / "job.schema.json"


def refusal(**fields: Any) -> str:
    with pytest.raises(RunError) as refused:
        read_job({"run": "true"} | fields)
    assert refused.value.code is FailureCode.INVALID_INPUT
    return refused.value.message


def test_a_command_alone_is_a_job_of_at_most_a_day() -> None:
    job = read_job({"run": "python train.py"})
    assert (job.max_duration, job.retry.max, job.retry.on) == (86_400, 4, ["interruption"])


def test_commands_are_another_name_of_run() -> None:
    assert read_job({"commands": ["cd src", "make"]}).run == "cd src\nmake"


def test_the_yaml_word_on_is_understood_in_its_place() -> None:
    assert read_job({"run": "x", "retry": {True: ["error"], "max": 1}}).retry.on == ["error"]


@pytest.mark.parametrize(
    ("fields", "hint"),
    [
        ({"runn": 1}, "'runn' is unknown, did you mean 'run'"),
        ({"timeout": "1h"}, "did you mean 'max_duration'"),
        ({"max_duration": "5 minutes"}, '"90m"'),
        ({"resources": {"gpu": "H100:x"}}, "H100:2"),
        ({"resources": {"memory": "lots"}}, "64GB"),
        ({"resources": {"cpus": 0}}, "number of cores"),
        ({"resources": {"tpu": 1}}, "tpu"),
        ({"retry": {"on": ["boom"]}}, "interruption, error, oom or exit:N"),
        ({"envs": {True: "x"}}, "put it in quotes"),
        ({"after": {"runs": [], "on_failure": "fail"}}, "'after'"),
        ({True: "x"}, "below 'retry'"),
        ({"priority": "high"}, "'priority'"),
    ],
)
def test_a_fault_names_the_field_and_the_fix(fields: dict[Any, Any], hint: str) -> None:
    with pytest.raises(RunError) as refused:
        read_job({"run": "true", **fields})
    assert hint in refused.value.message


def test_every_problem_is_named_at_once() -> None:
    text = refusal(max_duration="soon", checkpoint_every="often", resources={"gpu": ":0"})
    assert all(name in text for name in ("max_duration", "checkpoint_every", "resources.gpu"))


def test_a_job_without_a_command_is_refused() -> None:
    with pytest.raises(RunError, match="'run' is missing"):
        read_job({"name": "x"})


def test_the_published_schema_is_that_of_the_code() -> None:
    assert json.loads(SCHEMA.read_text()) == job_schema(), "write it again: pod-worker run --schema"
