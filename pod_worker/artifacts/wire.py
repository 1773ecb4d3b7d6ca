"""The requests and responses of the artifact routes, used by both ends.

Each is one dataclass.

One model from end to end, so that no hand-written mapping can drop a field. Pydantic (control plane) and msgspec
(pod) both read plain dataclasses; rules about values are in `keys` and in the routes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

MIB = 1024 * 1024
PART_BYTES = 64 * MIB  # up to this a file is one PUT; above it, parts of this size
PARTS_LIMIT = 10_000  # S3's limit on the parts of one upload
PAGE_PARTS = 100  # URLs in one answer unless asked for otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class PresignRequest:
    action: Literal["put", "get"]
    filename: str | None = None
    key: str | None = None
    content_type: str | None = None
    attempt: int | None = None
    lease_token: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    kind: str | None = None
    upload_id: str | None = None  # goes on with a multipart upload that was begun earlier
    first_part: int | None = None  # absent: from 1, and the answer also lists what the store already has
    part_count: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartUrl:
    number: int
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPart:
    number: int
    etag: str
    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactView:
    """An artifact as the API shows it.

    Rows of other emitters may lack all but the id and the key.
    """

    id: str
    run_id: str
    key: str
    kind: str
    attempt: int | None = None
    bytes: int | None = None
    sha256: str | None = None
    content_type: str | None = None
    role: str | None = None
    verified_at: str | None = None  # RFC 3339; absent: the object was never compared with its hash
    created_at: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadGrant:
    """Permission to upload: one `url`, or `upload_id` with part URLs.

    It has `registered` instead when the bytes are known.

    `key` is for this one upload. Finalize answers with the key under which the artifact is published.
    """

    key: str
    registered: bool = False
    artifact: ArtifactView | None = None
    url: str | None = None
    expires_in_s: int | None = None
    upload_id: str | None = None
    part_bytes: int | None = None
    parts_total: int | None = None
    parts: list[PartUrl] = field(default_factory=list)
    stored: list[StoredPart] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadUrl:
    key: str
    url: str
    expires_in_s: int
    sha256: str | None = None  # where the object is registered
    bytes: int | None = None  # as registered, else as stored; a download ends there


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalizeRequest:
    key: str
    bytes: int
    sha256: str
    kind: str
    content_type: str
    attempt: int | None = None
    lease_token: str | None = None
    role: str | None = None
    upload_id: str | None = None
    parts: list[StoredPart] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalized:
    artifact: ArtifactView


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortRequest:
    key: str
    upload_id: str
    attempt: int | None = None
    lease_token: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemDetails:
    """RFC 9457, with a `code` for programs.

    Examples are fenced, run_not_found, object_missing, upload_gone and mismatch.
    """

    title: str
    status: int
    detail: str
    code: str
    type: str = "about:blank"


def part_size(total_bytes: int, part_bytes: int) -> int:
    """The size of a part: `part_bytes`, or more.

    As much larger (in whole MiB) as keeps the upload within PARTS_LIMIT parts.
    """
    needed = -(-total_bytes // PARTS_LIMIT)
    return part_bytes if needed <= part_bytes else -(-needed // MIB) * MIB
