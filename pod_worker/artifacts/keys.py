"""The keys of the bucket, and which names are refused.

`runs/<run>/<attempt>/<filename>` is a published artifact; `uploads/<ulid>/<published key>` is one upload of it.
Pods get presigned URLs for uploads only. Keys come from code that models write and from the network, so every
part is checked before it is used. Pure rules, used by both ends; nothing here touches a file or a store.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from pod_worker.core.identifiers.row_id import row_id

NAME_LIMIT = 512  # characters, CONTRACT
KEY_LIMIT_BYTES = 1024  # S3's limit on an object key
SEGMENT_LIMIT_BYTES = 255  # a file name, for stores that keep objects as files

_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")
_WORD = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_ULID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")
_ATTEMPT = re.compile(r"0|[1-9][0-9]{0,8}")
UPLOADS = "uploads"
PUBLISHED = "runs"


class InvalidNameError(ValueError):
    """The message says which name, which rule and what to do."""


@dataclass(frozen=True, slots=True)
class ArtifactKey:
    run_id: str
    attempt: int
    filename: str

    def __str__(self) -> str:
        return f"runs/{self.run_id}/{self.attempt}/{self.filename}"

    @classmethod
    def read(cls, text: str) -> ArtifactKey:
        """Raises InvalidNameError for anything else."""
        parts = text.split("/", 3)
        if len(parts) != 4 or parts[0] != PUBLISHED or not _ATTEMPT.fullmatch(parts[2]):
            raise InvalidNameError(
                f"{text[:200]!r} is not a key: it must look like runs/<run>/<attempt>/<filename>"
            )
        return cls.of(parts[1], int(parts[2]), parts[3])

    @classmethod
    def of(cls, run_id: str, attempt: int, filename: str) -> ArtifactKey:
        if "/" in run_id:
            raise InvalidNameError(f"run id {run_id[:200]!r} holds a slash: no artifact can be kept under it")
        check_filename(run_id)
        check_filename(filename)
        key = cls(run_id, attempt, filename)
        if len(str(key).encode()) > KEY_LIMIT_BYTES:
            raise InvalidNameError(
                f"the key of {filename[:80]!r} is longer than {KEY_LIMIT_BYTES} bytes: shorten the name"
            )
        return key

    def with_content_suffix(self, sha256: str) -> ArtifactKey:
        """The key for other bytes under a name that is taken.

        Published objects are never overwritten.
        """
        path = PurePosixPath(self.filename)
        return ArtifactKey.of(
            self.run_id, self.attempt, str(path.with_name(f"{path.stem}.{sha256[:12]}{path.suffix}"))
        )


@dataclass(frozen=True, slots=True)
class UploadKey:
    """A key that is written once, and never read by anyone but the control plane."""

    upload: str  # a ULID
    target: ArtifactKey

    def __str__(self) -> str:
        return f"{UPLOADS}/{self.upload}/{self.target}"

    @classmethod
    def read(cls, text: str) -> UploadKey:
        """Raises InvalidNameError for anything else."""
        prefix, _, rest = text.partition("/")
        upload, _, target = rest.partition("/")
        if prefix != UPLOADS or not _ULID.fullmatch(upload):
            raise InvalidNameError(
                f"{text[:200]!r} is not an upload's key: it must look like uploads/<ulid>/runs/<run>/…"
            )
        return cls.of(upload, ArtifactKey.read(target))

    @classmethod
    def of(cls, upload: str, target: ArtifactKey) -> UploadKey:
        key = cls(upload, target)
        if len(str(key).encode()) > KEY_LIMIT_BYTES:
            raise InvalidNameError(
                f"the key of {target.filename[:80]!r} is longer than {KEY_LIMIT_BYTES} bytes: shorten the name"
            )
        return key


def check_filename(name: str) -> None:
    """A relative path of plain segments. Raises InvalidNameError."""
    if not name or len(name) > NAME_LIMIT:
        raise InvalidNameError(f"an artifact's name has 1 to {NAME_LIMIT} characters, this one has {len(name)}")
    if _CONTROL.search(name):
        raise InvalidNameError(f"{name[:200]!r} holds a backslash or a control character: rename the file")
    try:
        segments = name.encode().split(b"/")
    except UnicodeEncodeError:
        raise InvalidNameError(f"{name[:200]!r} is not valid UTF-8: rename the file") from None
    for segment in segments:
        if segment in (b"", b".", b".."):
            raise InvalidNameError(f"{name[:200]!r} must be a relative path without empty, '.' or '..' segments")
        if len(segment) > SEGMENT_LIMIT_BYTES:
            raise InvalidNameError(
                f"{name[:80]!r}… has a segment longer than {SEGMENT_LIMIT_BYTES} bytes: shorten it"
            )


def is_identifier(text: str) -> bool:
    """Fit to be a kind or a role."""
    return _WORD.fullmatch(text) is not None


def artifact_id(run_id: str, kind: str, sha256: str) -> str:
    """The registry's deterministic id.

    The same bytes of the same kind are one artifact of a run.
    """
    return row_id(run_id, kind, sha256)
