"""The stage `command`: a real program, and how its end is named."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.stages.command import COMMAND
from pod_worker.stages.context import StopFlag


def execute(folder: Path, **params: Any) -> dict[str, Any]:
    context: Any = SimpleNamespace(run=SimpleNamespace(params=params), work_dir=folder, stop=StopFlag())
    return COMMAND.run(context)


def test_a_text_runs_in_a_strict_shell_and_a_list_as_it_is(tmp_path: Path) -> None:
    assert execute(tmp_path, run="echo $PWD > where") == {"exit_code": 0}
    assert (tmp_path / "work" / "where").read_text().strip() == str(tmp_path / "work")
    execute(tmp_path, run=["touch", "a b;c"])
    assert (tmp_path / "work" / "a b;c").exists()
    for strict in ("false | true", "false; true", "echo $UNSET_VARIABLE"):
        with pytest.raises(RunError):
            execute(tmp_path, run=strict)


def test_an_end_that_is_no_success_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="exit code 3") as caught:
        execute(tmp_path, run="exit 3")
    assert caught.value.code is FailureCode.USER_ERROR
    with pytest.raises(RunError, match="SIGSEGV") as caught:
        execute(tmp_path, run="kill -SEGV $$")
    assert caught.value.code is FailureCode.CRASHED_SIGNAL
