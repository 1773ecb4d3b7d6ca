"""Makes a folder the exact copy of a manifest, from a cache and the store's packs.

Code of a run may write the cache, so every file is verified while it is copied. What the manifest does not name is
removed first. A copy that is cut off does no harm: the next attempt begins with an empty folder. `stop` is checked
between files and blocks.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pod_worker.content.manifest import (
    MANIFEST_LIMIT_BYTES,
    FileEntry,
    InvalidManifestError,
    Manifest,
    check,
    decode,
    encode,
    folders_of,
    paths_of,
    sha256_of,
)
from pod_worker.content.wire import PackRef
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.stop_signal import StopSignal
from pod_worker.process.removal import remove

CACHE_BYTES = 10 * 1024**3
BLOCK_BYTES = 1024 * 1024
USE_SECONDS = 600.0  # a use within this time of the last one is not noted
FetchPack = Callable[[PackRef, Path], Path]


def materialise(
    manifest: Manifest,
    packs: Callable[[], Sequence[PackRef]],
    target: Path,
    cache: Path,
    fetch_pack: FetchPack,
    stop: StopSignal,
    *,
    cache_bytes: int = CACHE_BYTES,
) -> None:
    """Make `target` the exact copy of the manifest.

    `packs` is called only when the cache lacks something. Raises InvalidManifestError, RunError(STORAGE) when a
    pack has other bytes, and what `stop` and
    `fetch_pack` raise.
    """
    check(manifest)
    contents = _Contents(cache, stop)
    _clear(target, manifest, stop)
    for folder in sorted({f"{target}/{folder}" for path in paths_of(manifest) for folder in folders_of(path)}):
        os.makedirs(folder, exist_ok=True)
    left = [each for each in manifest.files if not contents.copy_to(each, target)]
    wanted = {each.sha256 for each in left}
    for pack in packs() if left else ():
        needed = [place for place in pack.files if place.sha256 in wanted]
        if needed:
            stop.check()
            with tempfile.TemporaryDirectory(dir=contents.folder, prefix=".pack-") as folder:
                contents.add(fetch_pack(pack, Path(folder) / "pack"), pack)
    for each in left:
        if not contents.copy_to(each, target):
            raise RunError(FailureCode.STORAGE, f"{each.path!r}: the stored content is not what its hash names")
    for link in manifest.links:
        os.symlink(link.target, f"{target}/{link.path}")
    contents.evict(cache_bytes)


class _Contents:
    """The cache: one file per content, by its hash; its mtime is about the last use."""

    def __init__(self, folder: Path, stop: StopSignal) -> None:
        self.folder, self._path = folder, str(folder)
        self._stop = stop
        self._now = time.time()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def copy_to(self, entry: FileEntry, target: Path) -> bool:
        """Whether the cache had the right bytes; wrong ones are removed from it."""
        self._stop.check()
        source = f"{self._path}/{entry.sha256}"
        place = f"{target}/{entry.path}"
        try:
            # A link or a pipe that a run left here is not followed, and does not block.
            handle = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            found = os.fstat(handle)
            is_right = stat.S_ISREG(found.st_mode) and self._copy(handle, place, entry)
        finally:
            os.close(handle)
        if not is_right:
            remove(Path(place))
            remove(Path(source))
            return False
        if found.st_mtime < self._now - USE_SECONDS:
            os.utime(source, follow_symlinks=False)
        return True

    def _copy(self, source: int, place: str, entry: FileEntry) -> bool:
        mode = 0o755 if entry.is_executable else 0o644
        hasher, left = hashlib.sha256(), entry.bytes
        copied = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            while block := os.read(source, min(BLOCK_BYTES, left + 1)):
                self._stop.check()
                left -= len(block)
                if left < 0:
                    return False
                hasher.update(block)
                _write(copied, block)
            os.fchmod(copied, mode)  # whatever the umask is
        finally:
            os.close(copied)
        return left == 0 and hasher.hexdigest() == entry.sha256

    def add(self, pack: Path, ref: PackRef) -> None:
        """Put the needed contents of a pack into the cache.

        They are verified when they are used.
        """
        with open(pack, "rb") as file:
            for place in ref.files:
                self._stop.check()
                file.seek(place.offset)
                partial = pack.with_name("content")
                with open(partial, "wb") as copied:
                    left = place.bytes
                    while left and (block := file.read(min(BLOCK_BYTES, left))):
                        self._stop.check()
                        copied.write(block)
                        left -= len(block)
                remove(self.folder / place.sha256)
                os.replace(partial, self.folder / place.sha256)

    def evict(self, limit_bytes: int) -> None:
        """Remove the contents that were not used for the longest time."""
        found = []
        with os.scandir(self.folder) as listing:
            for entry in listing:
                seen = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(seen.st_mode):
                    found.append((seen.st_mtime_ns, seen.st_size, entry.path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= limit_bytes:
                return
            Path(path).unlink(missing_ok=True)
            total -= size


def cached_manifest(cache: Path, sha256: str) -> Manifest | None:
    """A manifest that was kept; None where there is none with this hash."""
    try:
        handle = os.open(cache / sha256, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, "rb") as file:
            encoded = file.read(MANIFEST_LIMIT_BYTES + 1)
        return decode(encoded) if sha256_of(encoded) == sha256 else None
    except (OSError, InvalidManifestError):
        return None


def keep_manifest(cache: Path, manifest: Manifest) -> None:
    """For `cached_manifest`: the next run with this workdir asks nothing."""
    encoded = encode(manifest)
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.NamedTemporaryFile(dir=cache, prefix=".manifest-", delete=False) as file:
        file.write(encoded)
    remove(cache / sha256_of(encoded))
    os.replace(file.name, cache / sha256_of(encoded))


def _write(handle: int, block: bytes) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[os.write(handle, rest) :]


def _clear(target: Path, manifest: Manifest, stop: StopSignal) -> None:
    """Remove everything but the folders that the manifest needs."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        target.unlink()
    target.mkdir(parents=True, exist_ok=True)
    folders = {folder for path in paths_of(manifest) for folder in folders_of(path)}
    pending = [("", target)]
    while pending:
        prefix, folder = pending.pop()
        folder.chmod(0o755)
        for entry in list(os.scandir(folder)):
            stop.check()
            path = f"{prefix}{entry.name}"
            if entry.is_dir(follow_symlinks=False) and path in folders:
                pending.append((f"{path}/", Path(entry.path)))
            else:
                remove(Path(entry.path))
