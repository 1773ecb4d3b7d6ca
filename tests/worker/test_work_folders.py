"""The folders of runs: no id leads outside the root, no folder in use is removed, no link is followed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pod_worker.worker.work_folders import KEPT_SECONDS, WorkFolders, disk_bytes, make_own_folder

IDS = ["..", ".", "", "/etc", "../../victim", "a/b", "a\\b", "x" * 10_000, "\0", "~", "%2E%2E", "run", "\ud800"]
MB = 1_000_000
LATER = 10 * KEPT_SECONDS


@pytest.fixture
def folders(tmp_path: Path) -> WorkFolders:
    (tmp_path / "victim").mkdir()
    return WorkFolders(tmp_path / "data" / "work")


@pytest.mark.parametrize("run_id", IDS)
def test_no_id_leads_outside_the_root(folders: WorkFolders, tmp_path: Path, run_id: str) -> None:
    before = sorted(path for path in tmp_path.rglob("*"))
    with folders.used(run_id) as path:
        assert path.parent == folders.root
        assert path.resolve() == path
        (path / "file").write_text("x")
    assert folders.remove(run_id)
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_ids_that_look_alike_have_folders_of_their_own(folders: WorkFolders) -> None:
    assert len({folders.path(run_id) for run_id in IDS}) == len(IDS)


def test_a_path_that_is_not_below_the_root_is_never_removed(folders: WorkFolders, tmp_path: Path) -> None:
    for path in (tmp_path / "victim", folders.root, folders.root.parent, folders.root / ".."):
        with pytest.raises(ValueError, match="not a folder of the work root"):
            folders._remove(path)
    assert (tmp_path / "victim").exists()
    assert folders.root.exists()


def test_the_folder_of_a_living_run_is_never_removed_however_old_it_is(folders: WorkFolders) -> None:
    with folders.used("long") as path:
        os.utime(path, (0, 0))
        other = WorkFolders(folders.root)  # a second worker on the same root
        assert other.clean(LATER, kept_folders=0) == []
        assert other.remove("long") is False
        assert path.exists()
    assert WorkFolders(folders.root).clean(LATER * 1e6) == [path]


def test_the_lock_holds_across_processes_and_ends_with_the_process(folders: WorkFolders) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom pod_worker.worker.work_folders import WorkFolders\n"
        "with WorkFolders(Path(sys.argv[1])).used('r'):\n    print(flush=True)\n    sys.stdin.read()"
    )
    argv = [sys.executable, "-c", program, str(folders.root)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert folders.remove("r") is False
        holder.kill()
        holder.wait()
    assert folders.remove("r") is True


def test_two_attempts_of_one_run_may_use_its_folder_at_once(folders: WorkFolders) -> None:
    with folders.used("r") as first, folders.used("r") as second:
        assert first == second


def test_unused_folders_are_bounded_by_age_and_by_number(folders: WorkFolders) -> None:
    for number in range(6):
        with folders.used(f"run-{number}") as path:
            pass
        os.utime(path, (1000.0 + number, 1000.0 + number))
    removed = folders.clean(now=1006.0, kept_seconds=3.5, kept_folders=4)
    assert sorted(path.name for path in removed) == ["run-0", "run-1", "run-2"]
    assert sorted(path.name for path in folders.root.iterdir()) == ["run-3", "run-4", "run-5"]


def fill(folders: WorkFolders, run_id: str, used_at: float, megabytes: int) -> Path:
    with folders.used(run_id) as path:
        (path / "deep").mkdir()
        (path / "deep" / "file").write_bytes(b"x" * megabytes * MB)
    os.utime(path, (used_at, used_at))
    return path


def test_unused_folders_are_bounded_by_bytes_and_the_oldest_go_first(tmp_path: Path) -> None:
    folders = WorkFolders(tmp_path / "work", kept_bytes=5 * MB)
    for number in range(4):
        fill(folders, f"run-{number}", 1000.0 + number, 2)
    assert [path.name for path in folders.clean(now=1004.0)] == ["run-0", "run-1"]
    assert folders.clean(now=1004.0) == []
    fill(folders, "huge", 1005.0, 6)
    assert [path.name for path in folders.clean(now=1006.0)] == ["run-2", "run-3", "huge"]


def test_a_living_run_is_neither_removed_nor_counted(tmp_path: Path) -> None:
    folders = WorkFolders(tmp_path / "work", kept_bytes=3 * MB)
    fill(folders, "failed", 1000.0, 2)
    fill(folders, "living", 2000.0, 9)
    with folders.used("living"):
        assert folders.clean(now=2001.0) == []
    assert sorted(path.name for path in folders.root.iterdir()) == ["failed", "living"]


def test_bytes_are_those_on_disk(tmp_path: Path) -> None:
    """A sparse file takes nothing; a file with two names takes its blocks once; a link's target is elsewhere."""
    (tmp_path / "big").write_bytes(b"x" * 4 * MB)
    folder = tmp_path / "folder"
    folder.mkdir()
    with open(folder / "sparse", "wb") as file:
        file.truncate(1 << 40)
    (folder / "file").write_bytes(b"x" * MB)
    os.link(folder / "file", folder / "same")
    (folder / "link").symlink_to(tmp_path / "big")
    (folder / "up").symlink_to(tmp_path)
    assert MB <= disk_bytes(folder) < 2 * MB


def test_a_folder_counts_as_young_from_its_last_use(folders: WorkFolders) -> None:
    with folders.used("r") as path:
        os.utime(path, (0, 0))
    assert path.stat().st_mtime > 1e9


def test_links_are_neither_followed_nor_removed(folders: WorkFolders, tmp_path: Path) -> None:
    (folders.root / "link").symlink_to(tmp_path / "victim")
    assert folders.clean(LATER * 1e6, kept_folders=0) == []
    assert folders.remove("link") is False
    with pytest.raises(OSError), folders.used("link"):
        pass
    assert (tmp_path / "victim").exists()


def test_the_root_is_private_and_our_own(tmp_path: Path) -> None:
    root = tmp_path / "work"
    root.mkdir(mode=0o777)
    WorkFolders(root)
    assert root.stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").symlink_to(root)
    with pytest.raises(NotADirectoryError):
        make_own_folder(tmp_path / "link", 0o700)
    if os.geteuid() == 0:
        os.chown(root, 12345, 12345)
        with pytest.raises(PermissionError, match="12345"):
            WorkFolders(root)
