"""Requests and answers of the content routes, used by both ends."""

from __future__ import annotations

from dataclasses import dataclass, field

PACK_BYTES = 64 * 1024 * 1024  # a pack has one larger file, or files up to this in all
OBJECT_LIMIT_BYTES = 5 * 1024**3  # S3's limit on one PUT
HASHES_LIMIT = 20_000  # in one request
DATA_SETS = "data/"  # before the key of a data set


def data_key(name: str, sha256: str, is_folder: bool) -> str:
    return f"{DATA_SETS}{sha256[:16]}/{name}" + ("/" if is_folder else "")


def folder_of_key(key: str) -> tuple[str, str] | None:
    """The key of the folder that a key names, or names a file of, and the path in it.

    None for the key of a file that is a data set of its own.
    """
    prefix, *parts = key.split("/", 3)
    if f"{prefix}/" != DATA_SETS or len(parts) < 3:
        return None
    return f"{DATA_SETS}{parts[0]}/{parts[1]}/", parts[2]


def pack_key(sha256: str) -> str:
    """The object of a pack; never overwritten."""
    return f"content/packs/{sha256}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingRequest:
    """Which contents have to be uploaded.

    `manifest` alone asks whether the whole tree is known.
    """

    manifest: str | None = None
    hashes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    is_known: bool = False  # the manifest and all its files are stored
    hashes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackGrant:
    """Permission to upload one pack."""

    key: str
    url: str
    expires_in_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PackFile:
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PackFinalizeRequest:
    """What an uploaded pack has: its files, one after another."""

    key: str
    sha256: str
    bytes: int
    files: list[PackFile]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackFinalized:
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRecorded:
    """A tree that is stored as a whole."""

    sha256: str
    files: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PackPlace:
    """One needed content of a pack."""

    sha256: str
    offset: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PackRef:
    """A pack of a workdir, with a URL to download it."""

    sha256: str
    bytes: int
    url: str
    files: list[PackPlace]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkdirAnswer:
    """`manifest` is the text whose SHA-256 is `sha256`."""

    sha256: str
    manifest: str
    packs: list[PackRef]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSetRequest:
    """A stored file, or a stored folder by the hash of its manifest."""

    name: str
    sha256: str
    is_folder: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSetView:
    """A data set; `key` is what parameters accept.

    The key of a folder ends with a slash. `sha256` is that of the file, or of the folder's manifest.
    """

    key: str
    name: str
    bytes: int
    sha256: str
    files: int | None = None  # of a folder
    created_at: str | None = None
