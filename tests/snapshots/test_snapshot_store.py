"""What a snapshot restores, what it uploads, and what is never restored: anything that was not whole."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from pod_worker.core.stage import ArtifactKind
from pod_worker.snapshots import draft as drafts
from pod_worker.snapshots import packs, snapshot_store
from pod_worker.snapshots.draft import DraftReader, FolderDraft
from pod_worker.snapshots.folder import FolderScan, OpenedFolder
from pod_worker.snapshots.snapshot_store import SnapshotStore
from tests.training.context import FolderContext

MIB = 1 << 20


class KilledError(BaseException):
    """The process ends here."""


def tree(folder: Path) -> dict[str, object]:
    """Everything that a snapshot keeps."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_dir():
            found[name] = oct(path.stat().st_mode & 0o777)
        else:
            found[name] = (path.read_bytes(), oct(path.stat().st_mode & 0o777), path.stat().st_mtime_ns)
    return found


def store(context: FolderContext, keep: int = 3) -> SnapshotStore:
    made = SnapshotStore(context, context.work_dir / "checkpoints", 300, keep)
    made.restore()
    return made


@pytest.fixture
def context(tmp_path: Path) -> FolderContext:
    return FolderContext(tmp_path, {})


@pytest.fixture
def folder(context: FolderContext) -> Path:
    return context.work_dir / "checkpoints"


def on_another_pod(context: FolderContext, tmp_path: Path) -> FolderContext:
    other = FolderContext(tmp_path, {}, attempt=2, pod="other")
    if context.saved_state:
        other.checkpoint(context.saved_state)
    return other


def test_everything_comes_back_on_another_pod(context: FolderContext, folder: Path, tmp_path: Path) -> None:
    saved = store(context)
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "empty").mkdir(mode=0o750)
    (folder / "deep" / "model.bin").write_bytes(random.Random(1).randbytes(3 * MIB + 5))
    (folder / "deep" / "er" / "run.sh").write_text("#!/bin/sh")
    (folder / "deep" / "er" / "run.sh").chmod(0o755)
    (folder / os.fsdecode(b"not utf-8 \xff\n")).write_bytes(b"")
    (folder / "latest").symlink_to("deep/model.bin")
    assert saved.snapshot_now("test")
    other = on_another_pod(context, tmp_path)
    again = SnapshotStore(other, other.work_dir / "checkpoints", 300, 3)
    assert again.restore()
    assert tree(other.work_dir / "checkpoints") == tree(folder)
    before = len(other.artifacts.published)
    assert again.snapshot_now("nothing changed")
    assert len(other.artifacts.published) == before


def test_links_that_lead_outside_and_special_files_are_named(context: FolderContext, folder: Path) -> None:
    saved = store(context)
    (folder / "kept").write_text("1")
    (folder / "outside").symlink_to("/etc/passwd")
    (folder / "inner").symlink_to(".")
    (folder / "through").symlink_to("inner/../..")
    os.mkfifo(folder / "pipe")
    assert saved.snapshot_now("test")
    assert saved.snapshot_now("again")
    warned = context.logs("warning")
    assert len(warned) == 3
    assert all(any(name in each for each in warned) for name in ("outside", "through", "pipe"))
    assert store(context).restore()
    assert sorted(os.listdir(folder)) == ["inner", "kept"]


def test_only_new_chunks_are_uploaded(context: FolderContext, folder: Path) -> None:
    saved = store(context)
    (folder / "big").write_bytes(random.Random(1).randbytes(16 * MIB))
    saved.snapshot_now("first")
    context.artifacts.published.clear()
    with open(folder / "big", "r+b") as file:
        file.seek(5 * MIB)
        file.write(b"changed")
    (folder / "copy").write_bytes((folder / "big").read_bytes())
    assert saved.snapshot_now("second")
    assert sum(each.bytes for each in context.artifacts.published) < 1.1 * MIB


def test_a_hole_takes_nothing(context: FolderContext, folder: Path) -> None:
    saved = store(context)
    with open(folder / "sparse", "wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 39)
        file.write(b"data")
    assert saved.snapshot_now("test")
    assert sum(each.bytes for each in context.artifacts.published) < 2 * MIB
    shutil.rmtree(folder)
    assert store(context).restore()
    status = (folder / "sparse").stat()
    assert (status.st_size, status.st_blocks * 512 < 4 * MIB) == (1 << 40, True)


def test_files_of_a_killed_attempt_are_not_trusted(context: FolderContext, folder: Path) -> None:
    saved = store(context)
    (folder / "state").write_bytes(b"whole")
    saved.snapshot_now("test")
    (folder / "state").write_bytes(b"halfs")
    (folder / "more").write_bytes(b"half")
    assert store(context).restore()
    assert {name: value[0] for name, value in tree(folder).items()} == {"state": b"whole"}  # type: ignore[index]


def test_a_file_that_comes_during_the_copy_is_in_the_snapshot(
    context: FolderContext, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file changes meanwhile: only a second look at the folder finds it."""
    saved = store(context)
    (folder / "latest").write_bytes(b"weights")
    real, is_first = DraftReader._copy, [True]

    def slow(self: DraftReader, *arguments: Any) -> FolderDraft:
        draft = real(self, *arguments)
        if is_first:
            is_first.clear()
            (folder / "weights").write_bytes(b"1")
        return draft

    monkeypatch.setattr(DraftReader, "_copy", slow)
    assert saved.snapshot_now("test")
    shutil.rmtree(folder)
    assert store(context).restore()
    assert sorted(os.listdir(folder)) == ["latest", "weights"]


def test_without_a_snapshot_the_folder_begins_empty(context: FolderContext, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "left").write_text("of an attempt that was killed before its first snapshot")
    made = SnapshotStore(context, folder, 300, 3)
    assert (made.restore(), os.listdir(folder)) == (False, [])
    (folder / "given").write_text("with the workdir")
    assert not SnapshotStore(context, folder, 300, 3, keep_initial_files=True).restore()
    assert os.listdir(folder) == ["given"]


def test_a_spoiled_pack_is_named_and_the_snapshot_before_it_is_restored(
    context: FolderContext, folder: Path, tmp_path: Path
) -> None:
    saved = store(context)
    for content in (b"one", b"two"):
        (folder / "state").write_bytes(content)
        saved.snapshot_now("test")
    spoiled = context.artifacts.root / context.saved_state["snapshots"]["packs"][0]
    spoiled.write_bytes(b"x" * spoiled.stat().st_size)
    other = on_another_pod(context, tmp_path)
    assert store(other).restore()
    assert (other.work_dir / "checkpoints" / "state").read_bytes() == b"one"
    assert "snapshot 2" in other.logs("warning")[0]


def test_a_file_that_changes_in_every_try_is_named_and_nothing_is_saved(
    context: FolderContext, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = store(context)
    (folder / "state").write_bytes(b"whole")
    assert saved.snapshot_now("first")
    before = context.saved_state
    scan = OpenedFolder.scan

    def scan_and_write(opened: OpenedFolder) -> FolderScan:
        found = scan(opened)
        with open(folder / "log", "ab") as file:
            file.write(b"line\n")
        return found

    monkeypatch.setattr(OpenedFolder, "scan", scan_and_write)
    monkeypatch.setattr(drafts, "_RETRY_SECONDS", (0.0, 0.0))
    assert not saved.snapshot_now("second")
    assert context.saved_state == before
    assert "log" in context.logs("warning")[-1]
    monkeypatch.undo()
    assert saved.snapshot_now("third")


def test_a_store_that_is_away_ends_nothing(context: FolderContext, folder: Path) -> None:
    saved = store(context)
    (folder / "state").write_bytes(b"1")
    context.artifacts.refused = {ArtifactKind.CHECKPOINT}
    assert not saved.snapshot_now("test")
    assert "stay on this pod only" in context.logs("warning")[0]
    context.artifacts.refused = set()
    assert saved.snapshot_now("test")


def test_the_newest_snapshots_are_kept_with_every_pack_that_they_need(
    context: FolderContext, folder: Path, tmp_path: Path
) -> None:
    saved = store(context, keep=2)
    (folder / "fixed").write_bytes(b"in the first pack")
    for number in range(4):
        (folder / "state").write_bytes(b"%d" % number)
        saved.snapshot_now("test")
    state = saved.state["snapshots"]
    assert [each["number"] for each in state["kept"]] == [4, 3]
    published = {each.key for each in context.artifacts.published}
    named = {*state["packs"], *(each["key"] for each in state["kept"])}
    for key in published - named:  # as the control plane's sweep does
        (context.artifacts.root / key).unlink()
    other = on_another_pod(context, tmp_path)
    assert store(other).restore()
    assert (other.work_dir / "checkpoints" / "state").read_bytes() == b"3"


def test_content_that_comes_back_is_uploaded_again(context: FolderContext, folder: Path) -> None:
    """The registry takes equal bytes for one artifact, and the sweep may have deleted the first copy."""
    saved = store(context, keep=1)
    for content in (b"A", b"B", b"A"):
        (folder / "state").write_bytes(content)
        saved.snapshot_now("test")
    hashes = [each.sha256 for each in context.artifacts.published]
    assert len(set(hashes)) == len(hashes) == 6


def test_packs_that_are_mostly_dead_or_too_many_are_replaced(
    context: FolderContext, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(packs, "PACKS_LIMIT", 4)
    saved = store(context, keep=1)
    for number in range(12):
        (folder / f"part{number}").write_bytes(random.Random(number).randbytes(1000))
        (folder / "state").write_bytes(b"%d" % number)
        assert saved.snapshot_now("test")
        assert len(saved.state["snapshots"]["packs"]) <= 5
    other = on_another_pod(context, tmp_path)
    assert store(other).restore()
    assert tree(other.work_dir / "checkpoints") == tree(folder)


def _spread(folder: Path, rng: random.Random) -> None:
    """One step of a job: files appear, change, move and go."""
    for _ in range(rng.randint(1, 4)):
        path = folder / rng.choice(("a", "b", "d/a", "d/b", "d/e/a"))
        path.parent.mkdir(parents=True, exist_ok=True)
        match rng.randrange(4):
            case 0 if path.exists():
                path.unlink()
            case 1 if path.exists():
                path.rename(folder / "moved")
            case _:
                path.write_bytes(rng.randbytes(rng.choice((0, 10, MIB + 1))))
    (folder / "always").write_bytes(rng.randbytes(8))


@pytest.mark.parametrize("seed", range(6))
def test_whatever_step_a_crash_interrupts_a_whole_snapshot_is_restored(seed: int, tmp_path: Path) -> None:
    """Histories of a folder with a crash at each call that leaves the process."""
    rng = random.Random(seed)
    context = FolderContext(tmp_path, {})
    folder = context.work_dir / "checkpoints"
    whole: list[dict[str, object]] = [{}]
    for step in range(12):
        made = SnapshotStore(context, folder, 300, 2)
        has_restored = made.restore()
        restored = tree(folder)
        assert restored == whole[-1]
        assert has_restored == (len(whole) > 1)
        _spread(folder, rng)
        now, crash_at = tree(folder), step % 6
        if _is_saved_before_crash(made, context, crash_at):
            whole.append(now)
        _spread(folder, rng)  # the job wrote on, and was killed with the pod
        if rng.random() < 0.3:
            shutil.rmtree(context.work_dir)  # another pod
            context.work_dir.mkdir()


def _is_saved_before_crash(made: SnapshotStore, context: FolderContext, crash_at: int) -> bool:
    """Whether the run's document named the snapshot when the process ended at that call."""
    calls, before = [0], context.saved_state
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((context.artifacts, "publish"), (context, "checkpoint")):
            original = getattr(owner, name)

            def call(*arguments: object, original: object = original, **named: object) -> object:
                calls[0] += 1
                if calls[0] * 2 - 1 == crash_at:
                    raise KilledError
                result = original(*arguments, **named)  # type: ignore[operator]
                if calls[0] * 2 == crash_at:
                    raise KilledError
                return result

            patch.setattr(owner, name, call)
        try:
            made.snapshot_now("test")
        except KilledError:
            pass
    return context.saved_state != before


def test_a_folder_that_is_still_empty_delays_no_request(context: FolderContext, folder: Path) -> None:
    saved = store(context)
    saved._poll()
    (folder / "step").write_text("1")
    saved.request_snapshot()
    saved._poll()
    assert saved._number == 1


def test_a_request_is_served_without_waiting_and_several_are_joined(
    context: FolderContext, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken_after(text: str, *, is_requested: bool) -> bool:
        if text:
            (folder / "step").write_text(text)
        if is_requested:
            saved.request_snapshot()
        before = saved._number
        saved._poll()
        return saved._number > before

    saved = store(context)
    monkeypatch.setattr(snapshot_store, "REQUEST_PAUSE_SECONDS", 0.0)
    (folder / "step").write_text("0")
    saved.snapshot_now("first")
    assert not taken_after("1", is_requested=False)
    assert taken_after("2", is_requested=True)
    assert not taken_after("", is_requested=True)  # nothing changed
    monkeypatch.setattr(snapshot_store, "REQUEST_PAUSE_SECONDS", 600.0)
    assert taken_after("3", is_requested=True)
    assert not taken_after("4", is_requested=True)
    saved._next_request_at = 0.0
    assert taken_after("5", is_requested=False)  # the request before was kept
