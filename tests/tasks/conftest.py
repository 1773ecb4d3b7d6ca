"""Prepared tasks that several tests read."""

from __future__ import annotations

from pathlib import Path

import pytest

from pod_worker.tasks.catalogue import find_task
from pod_worker.tasks.prepare import PreparedTask, prepare_task

SEED = 20_261_129


@pytest.fixture(scope="session")
def moons(tmp_path_factory: pytest.TempPathFactory) -> PreparedTask:
    return prepare_task(find_task("two_moons"), SEED, tmp_path_factory.mktemp("moons") / "task")


@pytest.fixture(scope="session")
def regression(tmp_path_factory: pytest.TempPathFactory) -> PreparedTask:
    return prepare_task(find_task("sparse_regression"), SEED, tmp_path_factory.mktemp("sparse") / "task")


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """The folder of a node whose program has just been written."""
    folder = tmp_path / "node"
    (folder / "out").mkdir(parents=True)
    (folder / "solution.py").write_text("")
    return folder
