"""The ledger is what it was, whatever the crash."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pod_worker.artifacts.ledger import UploadLedger, UploadRecord, UploadState
from pod_worker.core.stage import Artifact


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "artifacts.jsonl"


def _entry(sha: str = "aa", **fields: object) -> UploadRecord:
    return replace(UploadRecord("plot", sha, 10), **fields)  # type: ignore[arg-type]


def test_everything_written_is_read_back(path: Path) -> None:
    ledger = UploadLedger(path)
    ledger.put(_entry("aa"))
    entry = ledger.put(_entry("bb", state=UploadState.UPLOADING, key="k", upload_id="u", part_bytes=5, attempt=3))
    entry = ledger.part(entry, 2, "e2")
    entry = ledger.part(entry, 1, "e1")
    artifact = Artifact("k", 10, "cc", "plot", "image/png", "final")
    ledger.put(_entry("cc", state=UploadState.REGISTERED, artifact=artifact))
    again = UploadLedger(path)
    assert again.entries() == ledger.entries()
    assert again.find("plot", "bb") == entry
    assert [part.etag for part in entry.stored_parts] == ["e1", "e2"]
    assert again.find("plot", "cc").artifact == artifact  # type: ignore[union-attr]
    assert again.find("data", "aa") is None


def test_parts_of_an_older_upload_are_not_taken_for_the_new_ones(path: Path) -> None:
    ledger = UploadLedger(path)
    old = ledger.part(ledger.put(_entry(upload_id="old")), 1, "e1")
    ledger.put(replace(old, upload_id="new", parts={}))
    ledger.part(old, 2, "e2")
    assert UploadLedger(path).find("plot", "aa").parts == {}  # type: ignore[union-attr]


def test_a_line_torn_by_a_crash_is_dropped_and_the_next_one_is_not_lost(path: Path) -> None:
    ledger = UploadLedger(path)
    ledger.put(_entry("aa"))
    whole = path.read_bytes()
    ledger.put(_entry("bb"))
    everything = path.read_bytes()
    for cut in (*range(len(whole), len(everything), 9), len(everything) - 1, len(everything)):
        path.write_bytes(everything[:cut])
        again = UploadLedger(path)
        assert again.find("plot", "aa") == _entry("aa")
        again.put(_entry("cc"))
        assert UploadLedger(path).find("plot", "cc") == _entry("cc")
        assert UploadLedger(path).find("plot", "aa") == _entry("aa")


def test_garbage_in_the_middle_costs_only_itself(path: Path) -> None:
    UploadLedger(path).put(_entry("aa"))
    with path.open("ab") as file:
        file.write(b"\xff\x00 not json\n[1]\n{}\n")
    UploadLedger(path).put(_entry("bb"))
    assert [entry.sha256 for entry in UploadLedger(path).entries()] == ["aa", "bb"]


def test_a_long_ledger_is_folded_when_it_is_opened(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pod_worker.artifacts.ledger._COMPACT_LINES", 50)
    ledger = UploadLedger(path)
    entry = ledger.put(_entry(upload_id="u"))
    for number in range(1, 60):
        entry = ledger.part(entry, number, f"e{number}")
    before = path.stat().st_size
    assert UploadLedger(path).find("plot", "aa") == entry
    assert path.stat().st_size < before / 2
    assert UploadLedger(path).find("plot", "aa") == entry
