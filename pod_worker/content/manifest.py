"""The manifest of a tree: every file with its hash, every link, in one order.

The same tree gives the same bytes, and their SHA-256 names the tree. A manifest comes from the network, so
`decode` accepts no path and no link that leaves the tree, and no entry below a file or a link.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import msgspec

from pod_worker.core.identifiers.content_hash import is_sha256
from pod_worker.core.identifiers.link_target import is_inside

FORMAT = 1
FILE_LIMIT = 200_000
SEGMENT_LIMIT_BYTES = 255
PATH_LIMIT_BYTES = 4096
MANIFEST_LIMIT_BYTES = 32 * 1024 * 1024


class InvalidManifestError(ValueError):
    """The message names the entry and the rule."""


class FileEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A regular file. Of its mode only the executable bit is kept."""

    path: str
    sha256: str
    bytes: int
    is_executable: bool = False


class LinkEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A symbolic link to a place inside the tree."""

    path: str
    target: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: int = FORMAT
    files: list[FileEntry]
    links: list[LinkEntry] = []

    @property
    def bytes(self) -> int:
        return sum(each.bytes for each in self.files)

    def hashes(self) -> dict[str, int]:
        """The size of each distinct content, by hash, in the order of the files."""
        return {each.sha256: each.bytes for each in self.files}


def encode(manifest: Manifest) -> bytes:
    """The canonical bytes: entries sorted by path."""
    ordered = Manifest(
        files=sorted(manifest.files, key=lambda each: each.path),
        links=sorted(manifest.links, key=lambda each: each.path),
    )
    return msgspec.json.encode(ordered)


def sha256_of(encoded: bytes) -> str:
    return hashlib.sha256(encoded).hexdigest()


def decode(encoded: bytes) -> Manifest:
    """Raises InvalidManifestError."""
    try:
        manifest = msgspec.json.decode(encoded, type=Manifest)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidManifestError(f"not a manifest: {error}") from None
    check(manifest)
    if encode(manifest) != encoded:
        raise InvalidManifestError("the manifest is not in its canonical form")
    return manifest


def check(manifest: Manifest) -> None:
    """Raises InvalidManifestError for anything that could leave the tree."""
    if manifest.format != FORMAT:
        raise InvalidManifestError(f"format {manifest.format} is not known")
    if len(manifest.files) + len(manifest.links) > FILE_LIMIT:
        raise InvalidManifestError(f"more than {FILE_LIMIT} entries")
    sizes: dict[str, int] = {}
    for each in manifest.files:
        _check_file(each)
        if sizes.setdefault(each.sha256, each.bytes) != each.bytes:
            raise InvalidManifestError(f"{each.path[:200]!r}: two sizes for one hash")
    for link in manifest.links:
        check_path(link.path)
        if not is_inside(link.path, link.target):
            raise InvalidManifestError(f"link {link.path[:200]!r} leaves the tree")
    _check_places(paths_of(manifest))


def paths_of(manifest: Manifest) -> list[str]:
    return [*(each.path for each in manifest.files), *(each.path for each in manifest.links)]


def _check_file(each: FileEntry) -> None:
    check_path(each.path)
    if not is_sha256(each.sha256) or each.bytes < 0:
        raise InvalidManifestError(f"{each.path[:200]!r} has no valid hash and size")


def check_path(path: str) -> None:
    """Raises InvalidManifestError unless it is a plain relative path."""
    try:
        raw = path.encode()
    except UnicodeEncodeError:
        raise InvalidManifestError(f"{path[:200]!r} is not valid Unicode") from None
    parts = path.split("/")
    if len(raw) > PATH_LIMIT_BYTES or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise InvalidManifestError(f"{path[:200]!r} is not a path inside the tree")
    if any(len(part.encode()) > SEGMENT_LIMIT_BYTES for part in parts):
        raise InvalidManifestError(f"{path[:200]!r} has a name of more than {SEGMENT_LIMIT_BYTES} bytes")


def _check_places(paths: list[str]) -> None:
    taken = set(paths)
    if len(taken) != len(paths):
        raise InvalidManifestError("a path occurs twice")
    for path in paths:
        if any(folder in taken for folder in folders_of(path)):
            raise InvalidManifestError(f"{path[:200]!r} lies below a file or a link")


def select(manifest: Manifest, path: str) -> Manifest:
    """The file at `path`, or all below that folder; everything for an empty path."""

    def is_chosen(each: FileEntry | LinkEntry) -> bool:
        return not path or each.path == path or each.path.startswith(f"{path}/")

    return Manifest(files=[*filter(is_chosen, manifest.files)], links=[*filter(is_chosen, manifest.links)])


def folders_of(path: str) -> Iterator[str]:
    """The folders above a path, the nearest first."""
    while path := path.rpartition("/")[0]:
        yield path
