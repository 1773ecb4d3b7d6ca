"""A checkpoint file that another program made: what unpacking it may write to disk and keep in memory."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pod_worker.training.checkpoints import checkpoint, tar_extraction
from pod_worker.training.checkpoints.checkpoint import CheckpointError, unpack

HOLES = 64 << 20  # enough to be noticed, and little where a test fails


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytearray:
    entry = tarfile.TarInfo(name)
    entry.size, entry.type = size, kind
    return bytearray(entry.tobuf(tarfile.GNU_FORMAT))


def with_checksum(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def old_gnu_sparse(name: str, size: int) -> bytes:
    """A sparse member of 512 stored bytes whose other `size` bytes are holes."""
    block = header(name, 512, tarfile.GNUTYPE_SPARSE)
    block[386:410] = b"%011o\0%011o\0" % (0, 512)
    block[483:495] = b"%011o\0" % size
    return with_checksum(block) + bytes(512)


def pax_sparse(name: str, size: int) -> bytes:
    """The same in the format of GNU tar 1.14 and later (GNU.sparse.map)."""
    entry = tarfile.TarInfo(name)
    entry.size = 512
    entry.pax_headers = {"GNU.sparse.size": str(size), "GNU.sparse.map": "0,512", "GNU.sparse.numblocks": "1"}
    return entry.tobuf(tarfile.PAX_FORMAT) + bytes(512)


def many_members() -> bytes:
    return b"".join(bytes(header(f"extra-{number}", 0)) for number in range(50_000))


def chained_headers() -> bytes:
    return bytes(header("x", 0, tarfile.XHDTYPE)) * 5_000


HOSTILE: dict[str, Callable[[], bytes]] = {
    "old GNU sparse": lambda: old_gnu_sparse("manifest", HOLES),
    "pax sparse": lambda: pax_sparse("manifest", HOLES),
    "a size that the file does not have": lambda: bytes(header("manifest", HOLES)) + bytes(512),
    "many members": many_members,
    "chained headers": chained_headers,
    "a folder": lambda: bytes(header("manifest", 0, tarfile.DIRTYPE)),
    "a link": lambda: bytes(header("manifest", 0, tarfile.SYMTYPE)),
}


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes below the checkpoint's folder were there, counted when unpacking removes them."""
    found: list[int] = []
    remove = checkpoint.shutil.rmtree  # type: ignore[attr-defined]

    def count_and_remove(folder: Path, **options: bool) -> None:
        found.extend(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        remove(folder, **options)

    monkeypatch.setattr(checkpoint.shutil, "rmtree", count_and_remove)  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_writes_no_more_than_its_own_size(tmp_path: Path, kind: str, written: list[int]) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(HOSTILE[kind]() + bytes(1024))
    with pytest.raises(CheckpointError):
        unpack(path)
    assert sum(written) <= path.stat().st_size
    assert [each.name for each in tmp_path.iterdir()] == ["x.tar"]


def test_headers_are_not_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive of 25 MB of headers would take 1 GB of memory."""
    path = tmp_path / "x.tar"
    path.write_bytes(many_members() + bytes(1024))
    read: list[tarfile.TarInfo] = []
    original = tarfile.TarFile.next

    def next_member(archive: tarfile.TarFile) -> tarfile.TarInfo | None:
        found = original(archive)
        read.extend([found] if found else [])
        return found

    monkeypatch.setattr(tarfile.TarFile, "next", next_member)
    with pytest.raises(CheckpointError):
        unpack(path)
    assert len(read) <= 10


def test_a_member_that_grows_while_it_is_read_is_cut_off(tmp_path: Path) -> None:
    """The bound holds for the bytes that are written, whatever the header claims."""
    source, target = io.BytesIO(bytes(5_000)), tmp_path / "part"
    with pytest.raises(tar_extraction.ArchiveError, match="more than"):
        tar_extraction.copy_bounded(source, target, 1_000)
    assert target.stat().st_size <= 1_000
