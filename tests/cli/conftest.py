"""The command line in this process, against a database of the test's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pod_worker.cli import doctor_checks, main
from pod_worker.cli.diagnosis import Diagnosis


@dataclass(frozen=True)
class CommandResult:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., CommandResult]


@pytest.fixture
def cli(
    mongodb_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Cli:
    """Call it with words; it answers with exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MONGODB_URL", mongodb_url)
    monkeypatch.setenv("POD_WORKER_DATA", str(tmp_path / "no-stack"))

    # The step takes ten seconds; tests/training/test_environment_check.py runs it.
    monkeypatch.setattr(
        doctor_checks, "training_step", lambda: Diagnosis("training", "ok", "not run by this test")
    )

    def call(*words: str) -> CommandResult:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        captured = capsys.readouterr()
        code = ended.value.code
        return CommandResult(code if isinstance(code, int) else 0, captured.out, captured.err)

    return call
