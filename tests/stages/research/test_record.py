"""The record of a run: what the next attempt has, on this pod and on another one."""

import hashlib
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.stages.research.record import FILE_BYTES, RecordError, RunRecord, latest_copy, pack, unpack
from tests.stages.research.context import ResearchContext


def context(root: Path, *, attempt: int = 1, pod: str = "a", stage: str = "Stage_1") -> ResearchContext:
    return ResearchContext(root, {}, stage, attempt=attempt, pod=pod)


def opened(at: ResearchContext) -> RunRecord:
    record = RunRecord(at)
    record.open(at)
    return record


def save(at: ResearchContext, journal: str) -> RunRecord:
    record = opened(at)
    (record.folder / "journal.ndjson").write_text(journal)
    record.save(at)
    at.checkpoint({"record": record.latest})
    return record


def journal(record: RunRecord) -> str:
    return (record.folder / "journal.ndjson").read_text()


def test_another_pod_continues_from_the_copy(tmp_path: Path) -> None:
    save(context(tmp_path, attempt=1, pod="a"), "one")
    assert journal(opened(context(tmp_path, attempt=2, pod="b"))) == "one"


def test_a_run_that_was_reset_to_its_start_forgets_its_files(tmp_path: Path) -> None:
    first = context(tmp_path)
    save(first, "one")
    for state in first.states.glob("*.json"):
        state.unlink()
    record = opened(context(tmp_path, attempt=2))
    assert not (record.folder / "journal.ndjson").exists()


def test_a_run_that_was_killed_before_its_first_copy_keeps_its_files(tmp_path: Path) -> None:
    record = opened(context(tmp_path))
    (record.folder / "journal.ndjson").write_text("one")
    assert journal(opened(context(tmp_path, attempt=2))) == "one"


def test_a_later_stage_finds_the_copy_of_an_earlier_one(tmp_path: Path) -> None:
    save(context(tmp_path, stage="Stage_1"), "one")
    assert journal(opened(context(tmp_path, attempt=2, pod="b", stage="Stage_2"))) == "one"


def test_the_same_pod_keeps_files_that_are_newer_than_its_copy(tmp_path: Path) -> None:
    record = save(context(tmp_path), "one")
    (record.folder / "journal.ndjson").write_text("one and two")
    assert journal(opened(context(tmp_path, attempt=2))) == "one and two"


def test_a_pod_that_was_away_takes_what_another_one_saved_since(tmp_path: Path) -> None:
    record = save(context(tmp_path, attempt=1, pod="a"), "one")
    (record.folder / "journal.ndjson").write_text("one, then killed")
    save(context(tmp_path, attempt=2, pod="b"), "one and two")
    assert journal(opened(context(tmp_path, attempt=3, pod="a"))) == "one and two"


def test_the_newest_copy_of_all_stages_counts(tmp_path: Path) -> None:
    save(context(tmp_path, stage="Stage_2"), "old")
    save(context(tmp_path, stage="Stage_1"), "new")
    found = latest_copy(context(tmp_path, attempt=2, pod="b"))
    assert found is not None
    assert found.number == 2


def test_large_files_of_programs_stay_on_the_pod(tmp_path: Path) -> None:
    record = opened(context(tmp_path))
    node = record.folder / "nodes" / "n1"
    (node / "out").mkdir(parents=True)
    (node / "solution.py").write_text("print()")
    (node / "out" / "curves.json").write_text("[]")
    (node / "out" / "predictions.npz").write_bytes(b"x")
    (node / "out" / "figure.png").write_bytes(b"x")
    (record.folder / "task" / "hidden").mkdir(parents=True)
    (record.folder / "task" / "hidden" / "labels.npz").write_bytes(b"x")
    with (record.folder / "large").open("wb") as file:
        file.truncate(FILE_BYTES + 1)
    pack(record.folder, tmp_path / "record.tar")
    unpack(tmp_path / "record.tar", tmp_path / "copy")
    found = {str(path.relative_to(tmp_path / "copy")) for path in (tmp_path / "copy").rglob("*") if path.is_file()}
    assert found == {"attempt", "nodes/n1/solution.py", "nodes/n1/out/curves.json"}


def test_no_link_and_no_pipe_of_a_program_is_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("key")
    record = opened(context(tmp_path))
    node = record.folder / "nodes" / "n1"
    node.mkdir(parents=True)
    (node / "solution.py").symlink_to(secret)
    os.mkfifo(node / "output.txt")
    pack(record.folder, tmp_path / "record.tar")
    assert b"key" not in (tmp_path / "record.tar").read_bytes()


def test_equal_records_are_equal_archives(tmp_path: Path) -> None:
    record = save(context(tmp_path), "one")
    pack(record.folder, tmp_path / "1.tar")
    os.utime(record.folder / "journal.ndjson", (1, 1))
    pack(record.folder, tmp_path / "2.tar")
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()


def archive(path: Path, name: str, **fields: Any) -> Path:
    with tarfile.open(path, "w:") as tar:
        member = tarfile.TarInfo(name)
        for field, value in fields.items():
            setattr(member, field, value)
        tar.addfile(member, io.BytesIO(b"\0" * member.size))
    return path


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("../outside", {}),
        ("/outside", {}),
        ("a/../../outside", {}),
        ("link", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),
        ("hard", {"type": tarfile.LNKTYPE, "linkname": "attempt"}),
        ("pipe", {"type": tarfile.FIFOTYPE}),
        ("large", {"size": FILE_BYTES + 1}),
    ],
)
def test_an_archive_with_anything_but_plain_small_files_is_refused(
    tmp_path: Path, name: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(RecordError):
        unpack(archive(tmp_path / "x.tar", name, **fields), tmp_path / "folder")
    assert not (tmp_path / "outside").exists()


def test_a_copy_that_cannot_be_used_ends_the_attempt(tmp_path: Path) -> None:
    first = context(tmp_path)
    record = save(first, "one")
    assert record.latest
    (first.artifacts.root / str(record.latest["key"])).write_bytes(b"no archive")
    first.checkpoint({"record": {**record.latest, "sha256": hashlib.sha256(b"no archive").hexdigest()}})
    with pytest.raises(RunError, match="reset the run") as caught:
        opened(context(tmp_path, attempt=2, pod="b"))
    assert caught.value.code is FailureCode.STORAGE


def test_a_store_that_is_away_ends_no_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = context(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise RunError(FailureCode.STORAGE, "away")

    record = opened(at)
    monkeypatch.setattr(at.artifacts, "publish", refuse)
    record.save(at)
    assert record.latest is None
    assert any("stays on this pod" in line for line in at.logs("warning"))
