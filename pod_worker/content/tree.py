"""Scan of a folder: its manifest, and every problem with its fix.

`scan(folder)` applies the ignore rules, hashes what is new, and raises TreeError with every refusal. It uploads
nothing.
"""

from __future__ import annotations

import hashlib
import heapq
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pod_worker.content.hash_cache import HashCache, stamp
from pod_worker.content.ignore_rules import IgnoreRules, rules_above
from pod_worker.content.manifest import (
    FileEntry,
    InvalidManifestError,
    LinkEntry,
    Manifest,
    check_path,
    encode,
    sha256_of,
)
from pod_worker.core.identifiers.link_target import is_inside

LARGEST = 10
SHOWN_PROBLEMS = 10
HASH_TRIES = 3
BLOCK_BYTES = 1024 * 1024


class TreeError(Exception):
    """The folder cannot be uploaded: the message lists each cause and its fix."""

    def __init__(self, folder: Path, problems: list[str]) -> None:
        more = len(problems) - SHOWN_PROBLEMS
        shown = problems[:SHOWN_PROBLEMS] + ([f"and {more} more"] if more > 0 else [])
        super().__init__("\n".join([f"cannot upload {str(folder)!r}:", *(f"  {each}" for each in shown)]))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class TreeLimits:
    bytes: int = 1_000_000_000
    files: int = 20_000


@dataclass(frozen=True, slots=True)
class Tree:
    """A scanned folder.

    `largest` has (path, bytes), the largest first. `sha256` names the manifest, `encoded` is its bytes.
    """

    root: Path
    manifest: Manifest
    encoded: bytes
    sha256: str
    files: int
    bytes: int
    largest: list[tuple[str, int]]


@dataclass(slots=True)
class _Found:
    files: dict[str, os.stat_result] = field(default_factory=dict)
    links: list[LinkEntry] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def scan(folder: Path, limits: TreeLimits | None = None, cache: Path | None = None) -> Tree:
    """The tree below `folder`; `cache` is a folder for the hashes of unchanged files.

    Raises TreeError.
    """
    limits = limits or TreeLimits()
    root = Path(os.path.abspath(folder))
    if not root.is_dir():
        raise TreeError(folder, ["it is not a folder: give the path of a folder"])
    found = _Found()
    _walk(root, root, rules_above(root), found)
    found.problems += _limit_problems(found, limits)
    if found.problems:
        raise TreeError(folder, found.problems)
    manifest = _manifest(root, found, cache)
    encoded = encode(manifest)
    return Tree(
        root=root,
        manifest=manifest,
        encoded=encoded,
        sha256=sha256_of(encoded),
        files=len(manifest.files),
        bytes=manifest.bytes,
        largest=_largest(found),
    )


def _walk(root: Path, folder: Path, rules: IgnoreRules, found: _Found) -> None:
    where = str(folder.relative_to(root))
    try:
        rules = rules.within(folder)
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        found.problems.append(
            f"{where!r}: {error.strerror}: make it readable (chmod u+rx), or name it in .podignore"
        )
        return
    for entry in entries:
        _take(root, entry, rules, found)


def _take(root: Path, entry: os.DirEntry[str], rules: IgnoreRules, found: _Found) -> None:
    is_folder = entry.is_dir(follow_symlinks=False)
    if rules.is_ignored(entry.path, is_folder):
        return
    path = entry.path[len(str(root).rstrip("/")) + 1 :]
    try:
        check_path(path)
        if entry.is_symlink():
            _take_link(path, os.readlink(entry.path), found)
        elif is_folder:
            _walk(root, Path(entry.path), rules, found)
        elif stat.S_ISREG((now := entry.stat(follow_symlinks=False)).st_mode):
            found.files[path] = now
        else:
            found.problems.append(f"{path!r} is a pipe, socket or device: remove it, or name it in .podignore")
    except InvalidManifestError as error:
        found.problems.append(f"{error}: rename it, or name it in .podignore")
    except OSError as error:
        found.problems.append(f"{path!r}: {error.strerror}: try again, or name it in .podignore")


def _take_link(path: str, target: str, found: _Found) -> None:
    if is_inside(path, target):
        found.links.append(LinkEntry(path=path, target=target))
        return
    found.problems.append(
        f"{path!r} is a link to {target!r}, outside the folder: copy the file here, or name the link in .podignore"
    )


def _limit_problems(found: _Found, limits: TreeLimits) -> Iterator[str]:
    if not found.files and not found.problems:
        yield "there is no file to upload (empty, or everything is ignored): check .gitignore and .podignore"
    total = sum(each.st_size for each in found.files.values())
    if total > limits.bytes:
        named = ", ".join(f"{path!r} ({size / 1e6:.1f} MB)" for path, size in _largest(found)[:5])
        yield (
            f"{total / 1e6:.1f} MB are more than the limit of {limits.bytes / 1e6:.1f} MB. Largest: {named}. "
            "Name them in .podignore, use `pod-worker data put` for data, or raise the limit"
        )
    if len(found.files) > limits.files:
        named = ", ".join(f"{name!r} ({count} files)" for name, count in _fullest(found))
        yield (
            f"{len(found.files)} files are more than the limit of {limits.files}. Most are in: {named}. "
            "Name folders in .podignore, or raise the limit"
        )


def _largest(found: _Found) -> list[tuple[str, int]]:
    sizes = ((path, each.st_size) for path, each in found.files.items())
    return heapq.nlargest(LARGEST, sizes, key=lambda each: (each[1], each[0]))


def _fullest(found: _Found) -> list[tuple[str, int]]:
    counts: dict[str, int] = {}
    for path in found.files:
        top = path.partition("/")[0] if "/" in path else "."
        counts[top] = counts.get(top, 0) + 1
    return heapq.nlargest(5, counts.items(), key=lambda each: each[1])


def _manifest(root: Path, found: _Found, cache: Path | None) -> Manifest:
    """Raises TreeError for files that cannot be read or do not stay still."""
    hashes = HashCache(cache, root)
    entries: list[FileEntry] = []
    problems: list[str] = []
    for path, seen in found.files.items():
        try:
            entries.append(_entry(root, path, seen, hashes))
        except OSError as error:
            fix = "make it readable (chmod u+r), or name it in .podignore"
            problems.append(f"{path!r}: {error.strerror or error}: {fix}")
    hashes.save()
    if problems:
        raise TreeError(root, problems)
    return Manifest(files=entries, links=found.links)


def _entry(root: Path, path: str, seen: os.stat_result, hashes: HashCache) -> FileEntry:
    known = hashes.get(path, stamp(seen))
    if known is None:
        seen, known = stable_hash(root / path)
        hashes.put(path, stamp(seen), known)
    executable = bool(seen.st_mode & stat.S_IXUSR)
    return FileEntry(path=path, sha256=known, bytes=seen.st_size, is_executable=executable)


def stable_hash(file: Path) -> tuple[os.stat_result, str]:
    """The hash of a file that did not change meanwhile.

    Raises OSError, also for one that changes each time.
    """
    for _ in range(HASH_TRIES):
        # A file that became a link or a pipe since the listing is not followed, and does not block.
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(handle, "rb", buffering=0) as opened:
            before = os.fstat(handle)
            hasher, size = hashlib.sha256(), 0
            while block := opened.read(BLOCK_BYTES):
                hasher.update(block)
                size += len(block)
            after = os.fstat(handle)
        if stamp(before) == stamp(after) and size == before.st_size:
            return before, hasher.hexdigest()
    raise OSError(None, "it changes while it is read. Stop what writes it")
