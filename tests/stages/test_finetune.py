"""The training stage on a machine without the training libraries."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from pod_worker.cli.stack.demo import demo
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.stages.finetune import FINETUNE, LIBRARIES


@pytest.fixture
def no_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LIBRARIES:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("no_libraries")
def test_a_missing_library_is_a_fault_of_the_environment_with_its_fix() -> None:
    context: Any = SimpleNamespace(run=SimpleNamespace(params={"model": "m", "dataset": "rows.jsonl"}))
    with pytest.raises(RunError) as caught:
        FINETUNE.run(context)
    assert caught.value.code is FailureCode.ENVIRONMENT
    assert "torch, transformers, peft" in caught.value.message
    assert "Fix: make train" in caught.value.message


@pytest.mark.usefixtures("no_libraries")
def test_the_demo_starts_no_stack_when_it_cannot_train() -> None:
    result = CliRunner().invoke(demo, [])
    assert isinstance(result.exception, RunError)
    assert result.exception.code is FailureCode.ENVIRONMENT
    assert result.output == ""
