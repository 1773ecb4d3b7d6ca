"""The folders of a job: what an attempt starts from, and what outlives it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pod_worker.command.execution.folders import JobFolders
from pod_worker.process.removal import remove


def test_an_attempt_starts_with_an_empty_workdir_and_keeps_outputs_and_checkpoints(tmp_path: Path) -> None:
    folders = JobFolders(tmp_path)
    for _ in range(2):
        folders.clear()
        folders.create()
    (folders.work / "left").mkdir()
    for kept in (folders.outputs, folders.checkpoints):
        (kept / "kept").touch()
    folders.events.touch()
    folders.stop_file.touch()
    folders.clear()
    assert list(folders.work.iterdir()) == []
    assert (folders.outputs / "kept").exists()
    assert (folders.checkpoints / "kept").exists()
    assert not folders.events.exists()
    assert not folders.stop_file.exists()


def test_a_folder_without_any_mode_is_removed(tmp_path: Path) -> None:
    deep = tmp_path / "work" / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "file").touch()
    for folder in (deep, deep.parent):
        folder.chmod(0)
    remove(tmp_path / "work")
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("kind", ["file", "link", "pipe"])
def test_what_is_no_folder_is_removed_and_no_link_is_followed(tmp_path: Path, kind: str) -> None:
    kept, path = tmp_path / "kept", tmp_path / "work"
    kept.mkdir()
    (kept / "file").touch()
    {"file": path.touch, "link": lambda: path.symlink_to(kept), "pipe": lambda: os.mkfifo(path)}[kind]()
    JobFolders(tmp_path).clear()
    assert path.is_dir()
    assert not path.is_symlink()
    assert (kept / "file").exists()
