"""One owner per data folder, and private files."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pod_worker.local.errors import FolderInUseError
from pod_worker.local.folder_lock import FolderLock, write_private


def test_second_owner_is_told_who_has_the_folder(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.acquire()

    with pytest.raises(FolderInUseError, match=f"in use by process {os.getpid()}. Fix: stop that stack"):
        second.acquire(wait_seconds=0)

    first.release()
    second.acquire(wait_seconds=0)
    second.release()


def test_lock_can_be_seen_without_taking_it(tmp_path: Path) -> None:
    lock, observer = FolderLock(tmp_path), FolderLock(tmp_path)
    assert not observer.is_locked()

    lock.acquire()
    assert observer.is_locked()
    assert observer.is_locked()

    lock.release()
    assert not observer.is_locked()


def test_new_folder_belongs_to_its_owner_alone(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path / "data")
    lock.acquire()
    lock.release()

    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


def test_private_file_is_replaced_with_0600_whatever_was_there(tmp_path: Path) -> None:
    path = tmp_path / "stack.json"
    leftover = tmp_path / f".stack.json.{os.getpid()}.tmp"
    for file in (path, leftover):
        file.write_text("old")
        file.chmod(0o644)

    write_private(path, "new")

    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["stack.json"]
