"""A folder that other processes write to: its entries and its files.

No link is followed.

Every path is opened component after component below the folder's descriptor. A program that replaces a folder with
a link between two looks gains nothing. Paths are bytes relative to the folder, because names need not be UTF-8.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from pod_worker.core.identifiers.link_target import is_inside

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # deleted or replaced since it was listed
_SHOWN = 120  # characters of a name in a message


class FileChangedError(Exception):
    """A file changed, or went away, while it was read."""

    def __init__(self, path: bytes) -> None:
        super().__init__(shown(path))
        self.path = path


class UnreadableError(Exception):
    """A file or folder that this process may not read; the message names it."""


class FolderEntry(msgspec.Struct, frozen=True, array_like=True):
    """One file, folder or link.

    Folders have no size and no times: their entries say what changed.
    """

    path: bytes
    kind: str  # file | folder | link
    mode: int
    size: int = 0  # bytes
    modified_ns: int = 0
    changed_ns: int = 0  # no program can set this one
    inode: int = 0
    target: bytes = b""


@dataclass(slots=True)
class FolderScan:
    """What a folder held: each parent before its children."""

    entries: list[FolderEntry] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)  # "name: reason", of links and special files

    def digest(self) -> bytes:
        return hashlib.blake2b(msgspec.msgpack.encode(self.entries), digest_size=16).digest()

    def files(self) -> Iterator[FolderEntry]:
        return (entry for entry in self.entries if entry.kind == "file")

    def changed_since(self, earlier: FolderScan) -> list[bytes]:
        """Paths that one scan has and the other does not, or has differently."""
        if self.entries == earlier.entries:
            return []
        before, now = ({each.path: each for each in scan.entries} for scan in (earlier, self))
        return sorted(path for path in before.keys() | now.keys() if before.get(path) != now.get(path))


class OpenedFolder:
    """A folder held by its descriptor; a context manager. For one thread."""

    def __init__(self, folder: Path) -> None:
        self._root = os.open(folder, _FOLDER_FLAGS)
        self._parent_path = b""
        self._parent = os.dup(self._root)  # of the file opened last: the next one is often beside it

    def __enter__(self) -> OpenedFolder:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._parent)
        os.close(self._root)

    def scan(self, start: bytes = b"") -> FolderScan:
        """Everything below `start`, which may be missing. Raises UnreadableError."""
        found, pending = FolderScan(), [start]
        while pending:
            path = pending.pop()
            entries = self._list(path, found)
            found.entries += entries
            pending += reversed([each.path for each in entries if each.kind == "folder"])
        found.entries.sort(key=lambda each: each.path.split(b"/"))
        return found

    def open_file(self, path: bytes) -> int:
        """A descriptor of a plain file. Raises FileChangedError, UnreadableError."""
        try:
            handle = os.open(_name(path), _FILE_FLAGS, dir_fd=self.parent_of(path))
        except OSError as error:
            raise _named(error, path) from None
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise FileChangedError(path)
        return handle

    def parent_of(self, path: bytes) -> int:
        """A descriptor of the folder that holds `path`, valid until the next call."""
        parent = path.rpartition(b"/")[0]
        if parent != self._parent_path:
            opened = self._open_folder(parent)
            os.close(self._parent)
            self._parent, self._parent_path = opened, parent
        return self._parent

    def _open_folder(self, path: bytes) -> int:
        handle = os.dup(self._root)
        for name in path.split(b"/") if path else ():
            try:
                inner = os.open(name, _FOLDER_FLAGS, dir_fd=handle)
            except OSError as error:
                raise _named(error, path) from None
            finally:
                os.close(handle)
            handle = inner
        return handle

    def _list(self, path: bytes, found: FolderScan) -> list[FolderEntry]:
        try:
            handle = self._open_folder(path)
        except FileChangedError:
            return []
        try:
            with os.scandir(handle) as listed:
                names = sorted(os.fsencode(each.name) for each in listed)
            prefix = path + b"/" if path else b""
            made = [_entry(handle, prefix + name, found) for name in names]
        finally:
            os.close(handle)
        return [each for each in made if each is not None]


def _entry(folder: int, path: bytes, found: FolderScan) -> FolderEntry | None:
    name = _name(path)
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        mode = stat.S_IMODE(status.st_mode) & 0o777
        if stat.S_ISDIR(status.st_mode):
            return FolderEntry(path, "folder", mode)
        if stat.S_ISREG(status.st_mode):
            return FolderEntry(
                path, "file", mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
            )
        if stat.S_ISLNK(status.st_mode):
            target = os.readlink(name, dir_fd=folder)
            if is_inside(path, target):
                return FolderEntry(path, "link", 0, changed_ns=status.st_ctime_ns, target=target)
            found.left_out.append(f"{shown(path)}: a link that leads outside")
            return None
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise _named(error, path) from None
    found.left_out.append(f"{shown(path)}: no plain file, folder or link")
    return None


def shown(path: bytes) -> str:
    """A path for a message: one line, of bounded length."""
    text = path.decode("utf-8", "backslashreplace")
    text = "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _name(path: bytes) -> bytes:
    return path.rpartition(b"/")[2]


def _named(error: OSError, path: bytes) -> Exception:
    if error.errno in (*_GONE, errno.ENXIO):
        return FileChangedError(path)
    return UnreadableError(f"{shown(path) or 'the folder'}: {error.strerror}")
