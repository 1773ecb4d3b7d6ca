"""Who may ask for what on the artifact routes: the caller's attempt, the keys it may name, the values it may send.

Every refusal is a `ProblemError` with its reason. Nothing here writes, and nothing here talks to the object store.
"""

from __future__ import annotations

import re
from datetime import datetime

from pod_worker.artifacts.keys import ArtifactKey, InvalidNameError, is_identifier, is_sha256
from pod_worker.artifacts.wire import AbortRequest, ArtifactView, FinalizeRequest, PresignRequest
from pod_worker.control.web.problem import ProblemError
from pod_worker.core.lease import Fence
from pod_worker.store import artifact_registry as registry
from pod_worker.store.mongo import Mongo

OBJECT_LIMIT_BYTES = 5 * 1024**4  # S3's limit on one object
_MEDIA_TYPE = re.compile(r"[\w.+-]{1,100}/[\w.+-]{1,100}(; ?[\x20-\x7e]{1,100})?", re.ASCII)


def authorize_attempt(database: Mongo, run_id: str, body: PresignRequest | FinalizeRequest | AbortRequest) -> int:
    """The attempt on whose behalf the caller writes. ProblemError 404, or 409 `fenced` when it lost the run."""
    found = registry.owner_of(database, run_id)
    if found is None:
        raise ProblemError(404, "run_not_found", f"there is no run {run_id[:200]!r}")
    if body.lease_token is None:
        # Hand-made uploads, to a run that no worker holds: the bearer token is enough.
        if found.is_leased or body.attempt not in (None, found.attempt):
            raise fenced(run_id)
        return found.attempt
    if body.attempt is None:
        raise ProblemError(422, "bad_request", "a lease_token needs its attempt")
    if not registry.is_owned_by(database, run_id, Fence(run_id, body.attempt, body.lease_token)):
        raise fenced(run_id)
    return body.attempt


def fence_from_request(run_id: str, body: FinalizeRequest) -> Fence | None:
    return Fence(run_id, body.attempt or 0, body.lease_token) if body.lease_token else None


def fenced(run_id: str) -> ProblemError:
    return ProblemError(
        409,
        "fenced",
        f"run {run_id[:200]!r} is not held by this attempt and lease token: write nothing more for it",
    )


def parse_run_key(run_id: str, text: str, attempt: int | None = None) -> ArtifactKey:
    """A key of this run, and of no later attempt than `attempt`. A later attempt may finish what an earlier one
    began to upload: its bytes are verified all the same."""
    try:
        key = ArtifactKey.read(text)
    except InvalidNameError as error:
        raise ProblemError(422, "bad_key", str(error)) from None
    if key.run_id != run_id:
        raise ProblemError(422, "bad_key", f"{text[:200]!r} is not under runs/{run_id[:200]}/")
    if attempt is not None and key.attempt > attempt:
        raise ProblemError(422, "bad_key", f"{text[:200]!r} belongs to an attempt that has not begun")
    return key


def key_for(run_id: str, attempt: int, filename: str | None) -> ArtifactKey:
    try:
        return ArtifactKey.of(run_id, attempt, filename or "")
    except InvalidNameError as error:
        raise ProblemError(422, "bad_key", str(error)) from None


def check_values(body: PresignRequest | FinalizeRequest, role: str | None = None) -> None:
    for name, word in (("kind", body.kind), ("role", role)):
        if word is not None and not is_identifier(word):
            raise _bad(f"{name} {word[:80]!r} must be 1 to 64 letters, digits, '_', '.' or '-'")
    if body.sha256 is not None and not is_sha256(body.sha256):
        raise _bad("sha256 must be 64 lower-case hexadecimal digits")
    if body.bytes is not None and not 0 <= body.bytes <= OBJECT_LIMIT_BYTES:
        raise _bad(f"bytes must be between 0 and {OBJECT_LIMIT_BYTES}")
    if body.content_type is not None and not _MEDIA_TYPE.fullmatch(body.content_type):
        raise _bad(f"content_type {body.content_type[:80]!r} is not a media type like text/plain")


def artifact_view(row: registry.ArtifactRow) -> ArtifactView:
    return ArtifactView(
        id=row.id,
        run_id=row.run_id,
        key=row.key,
        kind=row.kind,
        attempt=row.attempt,
        bytes=row.bytes,
        sha256=row.sha256,
        content_type=row.content_type,
        role=row.role,
        verified_at=_moment(row.verified_at),
        created_at=_moment(row.created_at),
    )


def _bad(detail: str) -> ProblemError:
    return ProblemError(422, "bad_request", detail)


def _moment(at: datetime | None) -> str | None:
    return at.isoformat().replace("+00:00", "Z") if at else None
