"""`core.stage.Artifacts` on a pod: hash, upload, have it registered, remember it.

It uploads through presigned URLs.

Constant memory whatever the size; every step is in the ledger before the next begins, so that a crash resumes.
It holds no credential of the store. It reports an artifact as registered only after the control plane verified
it.
"""

from __future__ import annotations

import errno
import os
import random
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import BinaryIO

import requests

from pod_worker.artifacts import download, transfer
from pod_worker.artifacts.api_client import (
    ArtifactApiClient,
    ArtifactRequestError,
    LeaseLostError,
    RetryBudget,
    RetryingCaller,
)
from pod_worker.artifacts.keys import NAME_LIMIT, ArtifactKey, InvalidNameError
from pod_worker.artifacts.ledger import UploadLedger, UploadRecord, UploadState
from pod_worker.artifacts.transfer import TransientError, UploadNotFoundError, UploadRejectedError, UrlExpiredError
from pod_worker.artifacts.upload import PendingUpload, Uploader
from pod_worker.artifacts.wire import ArtifactView
from pod_worker.core.credentials.bearer import BearerAuth
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.lease import RunWriter
from pod_worker.core.payload import ArtifactDetected, ArtifactFailed, ArtifactRegistered, RunLog
from pod_worker.core.stage import Artifact, ArtifactKind, EventEmitter, StopSignal

__all__ = ["LeaseLostError", "Publisher", "RetryBudget"]

_UPLOADS = 2  # whole uploads of one file: the store lost the first, or got other bytes than ours
# A checkpoint has a successor, and a rented GPU waits meanwhile; a result has none, so it is worth the wait.
_CHECKPOINT_SECONDS = 60.0
_NAME_REJECTED = ("bad_key", "name_conflict", "key_taken")  # the run must choose another name
_START_AGAIN = ("mismatch", "object_missing", "upload_gone", "bad_parts")


class Publisher:
    """One attempt's artifacts.

    Threads may share it. Checkpoints go one after another, and so do all other files; parts in order.
    """

    def __init__(
        self,
        control_plane_url: str,
        token: str | None,
        writer: RunWriter,
        ledger: UploadLedger,
        emit: EventEmitter,
        stop: StopSignal,
        rng: random.Random,
        budget: RetryBudget | None = None,
        on_sent: Callable[[int], None] | None = None,
    ) -> None:
        """`on_sent` gets the number of bytes of each block that leaves."""
        self._run_id = writer.run_id
        self._attempt = writer.attempt
        self._ledger = ledger
        self._emit = emit
        self._stop = stop
        self._session = _session()
        self._retrying = RetryingCaller(budget or RetryBudget(), rng, stop, self._warn)
        self._control = ArtifactApiClient(control_plane_url, token, writer, self._session, self._retrying)
        self._uploader = Uploader(self._control, self._session, self._retrying, ledger, stop, on_sent)
        # A long upload of an output must not hold up a snapshot. The same bytes of one kind are in one lane.
        self._checkpoint_lane, self._other_lane = threading.Lock(), threading.Lock()

    def publish(
        self, path: Path, kind: ArtifactKind, name: str | None = None, role: str | None = None
    ) -> Artifact:
        """See `core.stage.Artifacts`.

        `name` may have folders; the bytes decide what is the same artifact.

        Raises also LeaseLostError, what the stop signal raises, and RunError(USER_ERROR) for a file that cannot be
        read, has no usable name, or changed while it was uploaded.
        """
        filename = name or path.name
        lane = self._checkpoint_lane if kind is ArtifactKind.CHECKPOINT else self._other_lane
        with lane, self._reported(filename), _opened(path) as file:
            ArtifactKey.of(self._run_id, self._attempt, filename)
            known = transfer.fingerprint(file, self._stop.check)
            entry = self._ledger.find(kind, known.sha256)
            if entry and entry.artifact and self._is_registered(entry, role):
                return entry.artifact
            if entry is None:
                self._emit.emit(ArtifactDetected(path=filename))
                entry = self._new_record(UploadRecord(kind.value, known.sha256, known.bytes))
            with self._retrying.with_timeout(_CHECKPOINT_SECONDS if kind is ArtifactKind.CHECKPOINT else inf):
                return self._register(PendingUpload(file, known, filename, role), entry)

    def fetch(self, key: str, target: Path, sha256: str | None = None) -> Path:
        """See `core.stage.Artifacts`. An interrupted download goes on where it stopped.

        RunError(INVALID_INPUT): this run has no such artifact.
        """
        try:
            # Unreachable is not absent: a resuming training must not start over because a store is away.
            with _named(away=FailureCode.NETWORK):
                return download.fetch(
                    self._control, self._session, self._retrying, self._stop, key, target, sha256
                )
        except ArtifactRequestError as refused:
            raise RunError(FailureCode.INVALID_INPUT, f"cannot fetch {key[:200]}: {refused}") from None

    def close(self) -> None:
        self._session.close()

    def _is_registered(self, entry: UploadRecord, role: str | None) -> bool:
        # Ask again for what an earlier attempt registered: a person may have removed it since.
        ours = entry.state is UploadState.REGISTERED and entry.attempt == self._attempt
        return ours and entry.artifact is not None and role in (None, entry.artifact.role)

    def _register(self, upload: PendingUpload, entry: UploadRecord) -> Artifact:
        made = _artifact(self._upload_and_register(upload, entry), upload)
        # The event first: a crash between the two repeats the event, and its projection is idempotent.
        self._emit.emit(
            ArtifactRegistered(
                key=made.key,
                bytes=made.bytes,
                content_type=made.content_type,
                kind=made.kind,
                sha256=made.sha256,
                role=made.role,
            )
        )
        self._ledger.put(
            UploadRecord(
                entry.kind, entry.sha256, entry.bytes, UploadState.REGISTERED, self._attempt, artifact=made
            )
        )
        return made

    def _upload_and_register(self, upload: PendingUpload, entry: UploadRecord) -> ArtifactView:
        """Upload what is missing and have it registered.

        Once more from the start if the store lost it.
        """
        for _ in range(_UPLOADS):
            try:
                if entry.state is not UploadState.UPLOADED:
                    grant = self._control.presign_put(upload.presign_request(entry))
                    if grant.artifact is not None:
                        return self._with_role(upload, grant.artifact)
                    entry = self._uploader.send(upload, entry, grant, self._attempt)
                return self._control.finalize(upload.finalize_request(entry))
            except ArtifactRequestError as refused:
                if refused.code not in _START_AGAIN:
                    is_name = refused.code in _NAME_REJECTED
                    code = FailureCode.USER_ERROR if is_name else FailureCode.STORAGE
                    raise RunError(code, f"{upload.filename}: {refused}") from None
                reason = str(refused)
            except UploadNotFoundError as gone:
                reason = str(gone)
            except RunError:
                self._abort_upload(self._ledger.find(entry.kind, entry.sha256) or entry)
                raise
            self._abort_upload(self._ledger.find(entry.kind, entry.sha256) or entry)
            upload.check_unchanged(self._stop, by_hash=True)
            entry = self._new_record(entry)
        raise RunError(
            FailureCode.STORAGE, f"{upload.filename} was uploaded {_UPLOADS} times without success: {reason}"
        )

    def _with_role(self, upload: PendingUpload, view: ArtifactView) -> ArtifactView:
        if upload.role in (None, view.role):
            return view
        return self._control.finalize(
            upload.finalize_request(
                UploadRecord(view.kind, upload.fingerprint.sha256, upload.fingerprint.bytes, key=view.key)
            )
        )

    def _new_record(self, entry: UploadRecord) -> UploadRecord:
        return self._ledger.put(UploadRecord(entry.kind, entry.sha256, entry.bytes, attempt=self._attempt))

    def _abort_upload(self, entry: UploadRecord) -> None:
        if entry.upload_id and entry.key:
            try:
                self._control.abort(entry.key, entry.upload_id)
            except (ArtifactRequestError, TransientError, RunError):
                pass  # the control plane sweeps unfinished uploads

    @contextmanager
    def _reported(self, filename: str) -> Iterator[None]:
        try:
            with _named():
                yield
        except RunError as error:
            shown = filename.encode(errors="replace").decode()[:NAME_LIMIT]  # the name itself may be invalid
            self._emit.emit(ArtifactFailed(key=shown, code=error.code, message=error.message))
            raise

    def _warn(self, text: str) -> None:
        self._emit.emit(RunLog(level="warn", message=f"waiting to move an artifact: {text}", source="artifacts"))


def _artifact(view: ArtifactView, upload: PendingUpload) -> Artifact:
    content_type = view.content_type or upload.content_type
    return Artifact(
        view.key, upload.fingerprint.bytes, upload.fingerprint.sha256, view.kind, content_type, view.role
    )


def _session() -> requests.Session:
    session = requests.Session()
    session.auth = BearerAuth(None)  # nothing from ~/.netrc goes to the object store
    return session


@contextmanager
def _named(away: FailureCode = FailureCode.STORAGE) -> Iterator[None]:
    """Give every error of the store its failure code.

    `away` is the code for a store that never answered.
    """
    try:
        yield
    except TransientError as error:
        raise RunError(away, f"gave up waiting: {error}") from None
    except (UploadNotFoundError, UploadRejectedError, UrlExpiredError) as error:
        raise RunError(FailureCode.STORAGE, str(error)) from None
    except InvalidNameError as error:
        raise RunError(FailureCode.USER_ERROR, str(error)) from None


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A plain file and nothing else.

    Code that a model wrote could leave a link to a secret, or a pipe.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise RunError(FailureCode.USER_ERROR, f"cannot publish {path.name}: {reason}") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise RunError(FailureCode.USER_ERROR, f"cannot publish {path.name}: it is not a plain file")
    with open(handle, "rb") as file:
        yield file
