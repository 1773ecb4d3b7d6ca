from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pod_worker.process.tree import become_subreaper
from tests.stages.ai_scientist.original_run import OriginalRun
from tests.stages.ai_scientist.stand_in import MARK, latex_stand_in


@pytest.fixture(autouse=True, scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MARK, f"unit-{os.getpid()}")
        patch.setenv("PATH", latex_stand_in(tmp_path_factory.mktemp("programs")))
        yield
    become_subreaper(enabled=False)


@pytest.fixture
def original(tmp_path: Path) -> OriginalRun:
    return OriginalRun(tmp_path)


@pytest.fixture(scope="module")
def finished(stand_in: None, tmp_path_factory: pytest.TempPathFactory) -> OriginalRun:
    """A run that reached its end. Tests must not change it."""
    run = OriginalRun(tmp_path_factory.mktemp("finished"))
    run.save("ai_scientist", run.execute(stage1_max_iters=7, code="print(2)"))
    return run
