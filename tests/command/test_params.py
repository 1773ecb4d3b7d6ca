"""The parameters of a command: every problem is named at once, with what to write instead."""

from __future__ import annotations

from typing import Any

import pytest

from pod_worker.command.params import CommandParams, complete, git_problems, parse
from pod_worker.core.failure import FailureCode, RunError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "'run' is missing"),
    ({"run": ""}, "'run' is ''"),
    ({"run": "  "}, "'run' is empty"),
    ({"run": []}, "'run' is []"),
    ({"run": [""]}, "names no program"),
    ({"run": "a\0b"}, "contains NUL"),
    ({"run": True}, "'run' is True"),
    ({"command": "echo"}, "did you mean 'run'"),
    ({"run": "x", "env": {}}, "did you mean 'envs'"),
    ({"run": "x", "envs": {"1A": "x"}}, "no digit first"),
    ({"run": "x", "envs": {"A": 1}}, "'envs' is"),
    ({"run": "x", "envs": {"A": "a\0"}}, "'envs' is"),
    ({"run": "x", "envs": {"OUTPUT_DIR": "x"}}, "which the worker sets"),
    ({"run": "x", "secrets": ["POD_WORKER_X"]}, "which the worker sets"),
    ({"run": "x", "secrets": ["A"], "envs": {"A": "b"}}, "given twice"),
    ({"run": "x", "python": "python3"}, "'python' is 'python3'"),
    ({"run": "x", "python": "2.7"}, "'python' is '2.7'"),
    ({"run": "x", "workdir": {}}, "either 'manifest' or 'git'"),
    ({"run": "x", "workdir": {"manifest": "a" * 64, "git": "https://h/o/r"}}, "either 'manifest' or 'git'"),
    ({"run": "x", "workdir": {"manifest": "abc"}}, "'workdir' is"),
    ({"run": "x", "workdir": {"git": "https://h/o/r", "commit": "main"}}, "full hash"),
    ({"run": "x", "workdir": {"git": "https://h/o/r"}}, "full hash"),
    ({"run": "x", "checkpoint_dir": "/data"}, "a path below the workdir"),
    ({"run": "x", "tensorboard": "../runs"}, "a path below the workdir"),
    ({"run": "x", "lock_files": ["a/../../b"]}, "a path below the workdir"),
    ({"run": "x", "outputs": [{"glob": "/etc/*"}]}, "a path below the workdir"),
    ({"run": "x", "outputs": ["*.pt"]}, "'outputs' is"),
    ({"run": "x", "gpus": -1}, "'gpus' is -1"),
    ({"run": "x", "checkpoint_every": 0}, "'checkpoint_every' is 0"),
    ({"run": "x", "checkpoint_every": float("nan")}, "'checkpoint_every' is nan"),
]


@pytest.mark.parametrize(("params", "problem"), BAD, ids=lambda value: str(value)[:50])
def test_bad_parameters_are_refused_with_the_fix(params: dict[str, Any], problem: str) -> None:
    with pytest.raises(RunError) as caught:
        complete(params)
    assert caught.value.code is FailureCode.INVALID_INPUT
    assert problem in caught.value.message


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(RunError) as caught:
        complete({"run": "", "python": "x", "gpus": "two", "envs": {"A B": "1"}})
    assert all(f"'{name}'" in caught.value.message for name in ("run", "python", "gpus", "envs"))


def test_what_a_run_keeps_reads_as_the_same_parameters() -> None:
    params = {
        "run": ["python", "train.py", "--lr", "1e-4"],
        "setup": "pip install -r requirements.txt",
        "lock_files": ["requirements.txt"],
        "workdir": {"manifest": "a" * 64, "files": 2, "bytes": 10},
        "source": {"commit": COMMIT, "branch": "main", "is_dirty": True},
        "python": "uv:3.12",
        "envs": {"LR": "1e-4"},
        "secrets": ["WANDB_API_KEY"],
        "gpus": 2,
        "outputs": [{"glob": "*.pt", "required": True}],
        "checkpoint_dir": "ckpt",
        "tensorboard": "runs",
    }
    kept = complete(params)
    assert kept["workdir"] == params["workdir"]
    assert parse(kept) == parse(params)
    assert set(kept) == set(CommandParams.__struct_fields__)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("https://github.com/owner/repo.git", None),
        ("ssh://git@github.com/owner/repo.git", None),
        ("git@github.com:owner/repo.git", None),
        ("file:///srv/repo.git", None),
        ("https://ana:pass@github.com/owner/repo", "user name or password"),
        ("https://ghp_token@github.com/owner/repo", "user name or password"),
        ("ssh://git:pass@github.com/owner/repo", "user name or password"),
        ("--upload-pack=touch", "without a scheme"),
        ("ext::sh -c x", "without a scheme"),
        ("ext://sh", "not supported"),
        ("https:///repo", "not supported"),
        ("https://[::1/repo", "cannot be read"),
        ("/srv/repo", "without a scheme"),
    ],
)
def test_a_git_url_without_credentials_is_accepted(url: str, problem: str | None) -> None:
    found = list(git_problems(url))
    assert (problem is None and not found) or (problem and problem in found[0])
    assert "pass" not in str(found).replace("password", ""), "the password would be in the message"
