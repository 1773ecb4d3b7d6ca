"""Checks of the artifact routes: the caller's attempt, keys and values.

Every refusal is a `ProblemError` with its reason. This module writes nothing and does not use the object store.
"""

from __future__ import annotations

import re
from datetime import datetime

from pod_worker.artifacts.keys import ArtifactKey, InvalidNameError, UploadKey, is_identifier
from pod_worker.artifacts.wire import AbortRequest, ArtifactView, FinalizeRequest, PresignRequest
from pod_worker.control.web.problem import ProblemError
from pod_worker.core.clock import rfc3339
from pod_worker.core.identifiers.content_hash import is_sha256
from pod_worker.core.lease import Fence, RunWriter, UnleasedRun
from pod_worker.store import artifact_registry as registry
from pod_worker.store.mongo import Mongo

OBJECT_LIMIT_BYTES = 5 * 1024**4  # S3's limit on one object
_MEDIA_TYPE = re.compile(r"[\w.+-]{1,100}/[\w.+-]{1,100}(; ?[\x20-\x7e]{1,100})?", re.ASCII)


def authorize_writer(
    database: Mongo, run_id: str, body: PresignRequest | FinalizeRequest | AbortRequest
) -> RunWriter:
    """The attempt for which the caller writes.

    ProblemError 404, or 409 `fenced` when it lost the run.
    """
    found = registry.owner_of(database, run_id)
    if found is None:
        raise ProblemError(404, "run_not_found", f"there is no run {run_id[:200]!r}")
    if body.lease_token is None:
        # Uploads by hand, to a run that no worker holds: the bearer token is enough.
        if found.is_leased or body.attempt not in (None, found.attempt):
            raise fenced(run_id)
        return UnleasedRun(run_id, found.attempt)
    if body.attempt is None:
        raise ProblemError(422, "bad_request", "a lease_token needs its attempt")
    writer = Fence(run_id, body.attempt, body.lease_token)
    if not registry.is_owned_by(database, writer):
        raise fenced(run_id)
    return writer


def fenced(run_id: str) -> ProblemError:
    return ProblemError(
        409,
        "fenced",
        f"run {run_id[:200]!r} is not held by this attempt and lease token: write nothing more for it",
    )


def parse_run_key(run_id: str, text: str) -> ArtifactKey:
    """A published key of this run."""
    try:
        return _of_run(run_id, ArtifactKey.read(text))
    except InvalidNameError as error:
        raise ProblemError(422, "bad_key", str(error)) from None


def parse_upload_key(writer: RunWriter, text: str) -> UploadKey:
    """An upload's key of this run, and of no later attempt than the writer's.

    A later attempt may finish what an earlier one began to upload: its bytes are verified all the same.
    """
    try:
        key = UploadKey.read(text)
    except InvalidNameError as error:
        raise ProblemError(422, "bad_key", str(error)) from None
    _of_run(writer.run_id, key.target)
    if key.target.attempt > writer.attempt:
        raise ProblemError(422, "bad_key", f"{text[:200]!r} belongs to an attempt that has not begun")
    return key


def _of_run(run_id: str, key: ArtifactKey) -> ArtifactKey:
    if key.run_id != run_id:
        raise ProblemError(422, "bad_key", f"{str(key)[:200]!r} is not under runs/{run_id[:200]}/")
    return key


def check_no_conflict(database: Mongo, key: ArtifactKey) -> None:
    """Refuse a file where a folder is, and the other way round.

    No disk, and not every store, can hold both.
    """
    other = registry.conflicting_key(database, str(key))
    if other is not None:
        raise ProblemError(
            409,
            "name_conflict",
            f"{str(key)[:200]!r} and the registered {other[:200]!r} cannot both exist: one is a file where the "
            "other has a folder. Use another filename",
        )


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
    return rfc3339(at) if at else None
