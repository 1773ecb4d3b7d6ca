"""Where the task of an experiment comes from."""

from __future__ import annotations

from pathlib import Path

from pod_worker.stages.research.search_session import task_place
from tests.training.context import FolderContext


def test_a_task_that_was_uploaded_is_copied_to_this_pod(tmp_path: Path) -> None:
    key = "data/0123456789abcdef/cells/"
    stored = tmp_path / "store" / key
    stored.mkdir(parents=True)
    (stored / "task.yaml").write_text("name: cells\n")
    context = FolderContext(tmp_path, {})
    assert (Path(task_place(context, key)) / "task.yaml").read_text() == "name: cells\n"
    assert task_place(context, "digits") == "digits"
    assert task_place(context, str(stored)) == str(stored)
