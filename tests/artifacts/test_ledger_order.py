"""The order of an upload's records: on disk before they count, the event before the ledger's last record."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pod_worker.artifacts.ledger import UploadLedger, UploadRecord, UploadState
from pod_worker.core.payload import ArtifactRegistered
from pod_worker.core.stage import ArtifactKind


def test_every_line_is_synced_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[int, int]] = []
    sync = os.fsync

    def watched(handle: int) -> None:
        found = os.fstat(handle)
        synced.append((found.st_ino, found.st_size))
        sync(handle)

    path = tmp_path / "ledger"
    ledger = UploadLedger(path)
    monkeypatch.setattr(os, "fsync", watched)
    entry = ledger.put(UploadRecord("data", "a" * 64, 10, upload_id="u"))
    assert synced[-1:] == [(path.stat().st_ino, path.stat().st_size)]
    ledger.part(entry, 1, "etag")
    assert synced[-1:] == [(path.stat().st_ino, path.stat().st_size)]


def test_the_event_is_emitted_before_the_ledger_says_registered(
    publisher: Any, file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash between the two repeats the event; the other way round the event would be missing."""
    order: list[str] = []
    put = UploadLedger.put

    def watched_put(ledger: UploadLedger, entry: UploadRecord) -> UploadRecord:
        order.append(entry.state.value)
        return put(ledger, entry)

    made = publisher()
    emit = made._emit.emit

    def watched_emit(payload: Any) -> str:
        if isinstance(payload, ArtifactRegistered):
            order.append("emitted")
        return str(emit(payload))

    monkeypatch.setattr(UploadLedger, "put", watched_put)
    monkeypatch.setattr(made._emit, "emit", watched_emit)
    made.publish(file(100), ArtifactKind.DATA)

    assert order[-2:] == ["emitted", UploadState.REGISTERED.value]
    assert order.count(UploadState.REGISTERED.value) == 1
