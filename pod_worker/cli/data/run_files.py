"""The files of a run under the names that the run gave them.

The artifacts of a run are one per content: two outputs with the same bytes have one key, and a second version of a
file has a key with a suffix. The index of the outputs says which key each name has in the end.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pod_worker.artifacts.keys import InvalidNameError, check_filename
from pod_worker.cli.downloads import ArtifactDownloader, latest_artifacts
from pod_worker.cli.output import say
from pod_worker.snapshots.outputs import INDEX_NAME, INDEX_ROLE, INDEXED_FOLDERS, OutputFile
from pod_worker.store.artifact_registry import ArtifactRow

INDEX_LIMIT_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class RunFile:
    row: ArtifactRow
    is_executable: bool = False


def run_files(rows: list[ArtifactRow], downloader: ArtifactDownloader) -> dict[str, RunFile]:
    """By name, the registered file of the latest attempt. Raises CommandError."""
    latest = latest_artifacts(rows)
    files = {name: RunFile(row) for name, row in latest.items()}
    index = latest.get(INDEX_NAME)
    if index is None or index.role != INDEX_ROLE or (index.bytes or 0) > INDEX_LIMIT_BYTES:
        return files
    outputs = _read(index, downloader)
    if outputs is None:
        return files
    by_key = {row.key: row for row in rows if row.verified_at is not None}
    listed = {
        each.name: RunFile(by_key[each.key], bool(each.mode & 0o100))
        for each in outputs
        if each.key in by_key and _is_valid(each.name)
    }
    kept = {name: each for name, each in files.items() if not _is_superseded(name, each.row, index)}
    return {**listed, **kept}


def _is_superseded(name: str, row: ArtifactRow, index: ArtifactRow) -> bool:
    """Whether the index decides about an output: it was written later."""
    if not name.startswith(INDEXED_FOLDERS) or row.created_at is None or index.created_at is None:
        return False
    return (row.attempt or 0) <= (index.attempt or 0) and row.created_at <= index.created_at


def _read(index: ArtifactRow, downloader: ArtifactDownloader) -> list[OutputFile] | None:
    """None for an artifact that is no index."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / INDEX_NAME
        downloader.download(index, path)
        try:
            return msgspec.json.decode(path.read_bytes(), type=list[OutputFile])
        except msgspec.MsgspecError as error:
            say(f"{index.key} is no index of outputs ({error}): files with equal content have one name only")
            return None


def _is_valid(name: str) -> bool:
    """A program of the run may have written the index."""
    try:
        check_filename(name)
    except InvalidNameError:
        return False
    return True
