"""`core.stage.Artifacts` on a pod: hash, upload by presigned URL, have it verified and registered, remember it.

Constant memory whatever the size; every step is in the ledger before the next begins, so that a crash resumes.
It holds no credential of the store, and never reports an artifact registered that the control plane has not
verified.
"""

from __future__ import annotations

import mimetypes
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import requests

from pod_worker.artifacts import download, transfer
from pod_worker.artifacts.control_plane import ControlPlane, Fenced, Patience, Retrying, Turned
from pod_worker.artifacts.keys import BadName, check_filename
from pod_worker.artifacts.ledger import Entry, Ledger, State
from pod_worker.artifacts.transfer import Fingerprint, Gone, Refusal, Transient, UrlExpired
from pod_worker.artifacts.wire import ArtifactView, FinalizeRequest, Grant, PresignRequest
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.lease import Fence
from pod_worker.core.payload import ArtifactDetected, ArtifactFailed, ArtifactRegistered
from pod_worker.core.stage import Artifact, ArtifactKind, Emit, StopSignal

__all__ = ["Fenced", "Patience", "Publisher"]

_UPLOADS = 3  # whole uploads of one file: the store lost it, or got other bytes than ours
_RENEWALS = 5  # presigned URLs in a row that the store does not accept


class Publisher:
    """One attempt's artifacts. Not for several threads at once: parts are sent one after another, in order."""

    def __init__(
        self,
        control_plane_url: str,
        token: str | None,
        fence: Fence,
        ledger: Ledger,
        emit: Emit,
        stop: StopSignal,
        rng: random.Random,
        patience: Patience | None = None,
    ) -> None:
        self._fence = fence
        self._ledger = ledger
        self._emit = emit
        self._stop = stop
        self._session = _session()
        self._retrying = Retrying(patience or Patience(), rng, stop)
        self._control = ControlPlane(control_plane_url, token, fence, self._session, self._retrying)

    def publish(
        self, path: Path, kind: ArtifactKind, name: str | None = None, role: str | None = None
    ) -> Artifact:
        """See `core.stage.Artifacts`. Raises also Fenced, and what the stop signal raises.

        RunError(USER_ERROR): the file cannot be read, has no usable name, or changed while it was uploaded.
        """
        filename = name or path.name
        with self._reported(filename), _opened(path) as file:
            check_filename(filename)
            known = transfer.fingerprint(file, self._stop.check)
            entry = self._ledger.find(kind, known.sha256)
            if entry and self._is_settled(entry, role) and entry.artifact:
                return entry.artifact
            if entry is None:
                self._emit.emit(ArtifactDetected(path=filename))
                entry = self._ledger.put(Entry(kind.value, known.sha256, known.bytes, attempt=self._fence.attempt))
            return self._settle(_Upload(file, known, filename, role), entry)

    def fetch(self, key: str, target: Path, sha256: str | None = None) -> Path:
        """See `core.stage.Artifacts`. An interrupted download goes on where it stopped."""
        with _named():
            return download.fetch(self._control, self._session, self._retrying, self._stop, key, target, sha256)

    def _is_settled(self, entry: Entry, role: str | None) -> bool:
        # What an earlier attempt registered is asked for again: a person may have removed it since.
        ours = entry.state is State.REGISTERED and entry.attempt == self._fence.attempt
        return ours and entry.artifact is not None and role in (None, entry.artifact.role)

    def _settle(self, upload: _Upload, entry: Entry) -> Artifact:
        view = self._registered(upload, entry)
        artifact = Artifact(
            view.key,
            upload.known.bytes,
            upload.known.sha256,
            view.kind,
            view.content_type or upload.content_type,
            view.role,
        )
        # The event first: a crash between the two repeats the event, and its projection does not mind.
        self._emit.emit(
            ArtifactRegistered(
                key=artifact.key,
                bytes=artifact.bytes,
                content_type=artifact.content_type,
                kind=artifact.kind,
                sha256=artifact.sha256,
                role=artifact.role,
            )
        )
        self._ledger.put(
            Entry(entry.kind, entry.sha256, entry.bytes, State.REGISTERED, self._fence.attempt, artifact=artifact)
        )
        return artifact

    def _registered(self, upload: _Upload, entry: Entry) -> ArtifactView:
        for _ in range(_UPLOADS):
            try:
                if entry.state is not State.UPLOADED:
                    grant = self._granted(upload, entry)
                    if grant.artifact is not None:
                        return self._with_role(upload, grant.artifact)
                    entry = self._sent(upload, entry, grant)
                return self._control.finalize(self._promise(upload, entry))
            except Turned as refused:
                problem = str(refused)
                if refused.code not in ("mismatch", "object_missing", "upload_gone", "bad_parts"):
                    raise RunError(FailureCode.STORAGE, f"{upload.filename}: {refused}") from None
            except Gone as gone:
                problem = str(gone)
            self._abandon(self._ledger.find(entry.kind, entry.sha256) or entry)
            self._check_unchanged(upload)
            entry = self._ledger.put(Entry(entry.kind, entry.sha256, entry.bytes, attempt=self._fence.attempt))
        raise RunError(FailureCode.STORAGE, f"{upload.filename} was uploaded {_UPLOADS} times in vain: {problem}")

    def _granted(self, upload: _Upload, entry: Entry, first_part: int | None = None) -> Grant:
        return self._control.presign_put(
            PresignRequest(
                action="put",
                filename=upload.filename,
                key=entry.key,
                content_type=upload.content_type,
                bytes=entry.bytes,
                sha256=entry.sha256,
                kind=entry.kind,
                upload_id=entry.upload_id,
                first_part=first_part,
            )
        )

    def _with_role(self, upload: _Upload, view: ArtifactView) -> ArtifactView:
        if upload.role in (None, view.role):
            return view
        asked = self._promise(upload, Entry(view.kind, upload.known.sha256, upload.known.bytes, key=view.key))
        return self._control.finalize(asked)

    def _promise(self, upload: _Upload, entry: Entry) -> FinalizeRequest:
        return FinalizeRequest(
            key=entry.key or "",
            bytes=entry.bytes,
            sha256=entry.sha256,
            kind=entry.kind,
            content_type=upload.content_type,
            role=upload.role,
            upload_id=entry.upload_id,
            parts=entry.stored_parts if entry.upload_id else None,
        )

    def _sent(self, upload: _Upload, entry: Entry, grant: Grant) -> Entry:
        moved = replace(entry, key=grant.key, attempt=self._fence.attempt, state=State.UPLOADING)
        if grant.upload_id is None:
            self._send_whole(upload, self._ledger.put(replace(moved, upload_id=None, parts={})), grant)
        else:
            moved = self._send_parts(upload, self._begun(moved, grant), grant)
        self._check_unchanged(upload, by_hash=False)
        return self._ledger.put(
            replace(self._ledger.find(entry.kind, entry.sha256) or moved, state=State.UPLOADED)
        )

    def _send_whole(self, upload: _Upload, entry: Entry, grant: Grant) -> None:
        url = grant.url
        for _ in range(_RENEWALS):
            try:
                self._put(upload, url or "", 0, entry.bytes, upload.content_type)
                return
            except UrlExpired as expired:
                problem = str(expired)
                url = self._granted(upload, entry).url
                if url is None:
                    raise Gone("the upload is no longer wanted") from None
        raise RunError(FailureCode.STORAGE, f"{upload.filename}: {problem}. Check the store's and the pod's clock")

    def _begun(self, entry: Entry, grant: Grant) -> Entry:
        """The entry with those finished parts that both the ledger and the store know."""
        same = entry.upload_id == grant.upload_id
        if same and entry.part_bytes != grant.part_bytes:
            raise Gone("the store's part size has changed since the upload began")
        kept = {
            part.number: part.etag for part in grant.stored if same and entry.parts.get(part.number) == part.etag
        }
        return self._ledger.put(replace(entry, upload_id=grant.upload_id, part_bytes=grant.part_bytes, parts=kept))

    def _send_parts(self, upload: _Upload, entry: Entry, grant: Grant) -> Entry:
        urls = {part.number: part.url for part in grant.parts}
        size, total, renewals = grant.part_bytes or 0, grant.parts_total or 0, 0
        number = 1
        while number <= total:
            self._stop.check()
            if number in entry.parts:
                number += 1
                continue
            if number not in urls:
                urls = {part.number: part.url for part in self._granted(upload, entry, number).parts}
                if number not in urls:
                    raise Gone("the upload is no longer wanted")
            start = (number - 1) * size
            try:
                etag = self._put(upload, urls[number], start, min(size, entry.bytes - start), None)
            except UrlExpired as expired:
                renewals += 1
                if renewals > _RENEWALS:
                    raise RunError(FailureCode.STORAGE, f"{upload.filename}: {expired}") from None
                urls = {}
                continue
            renewals = 0
            entry = self._ledger.part(entry, number, etag)
        return entry

    def _put(self, upload: _Upload, url: str, start: int, length: int, content_type: str | None) -> str:
        return self._retrying(
            lambda: transfer.put(self._session, url, upload.file, start, length, self._stop.check, content_type)
        )

    def _abandon(self, entry: Entry) -> None:
        if entry.upload_id and entry.key:
            try:
                self._control.abort(entry.key, entry.upload_id)
            except (Turned, Transient):
                pass  # the store expires unfinished uploads by itself

    def _check_unchanged(self, upload: _Upload, by_hash: bool = True) -> None:
        same = transfer.is_untouched(upload.file, upload.known)
        if same and by_hash:
            same = transfer.fingerprint(upload.file, self._stop.check).sha256 == upload.known.sha256
        if not same:
            raise RunError(
                FailureCode.USER_ERROR,
                f"{upload.filename} changed while it was being uploaded: publish it once its writer is done",
            )

    @contextmanager
    def _reported(self, filename: str) -> Iterator[None]:
        try:
            with _named():
                yield
        except RunError as error:
            self._emit.emit(ArtifactFailed(key=filename, code=error.code, message=error.message))
            raise


class _Upload:
    """What stays the same through all tries to upload one file."""

    def __init__(self, file: BinaryIO, known: Fingerprint, filename: str, role: str | None) -> None:
        self.file = file
        self.known = known
        self.filename = filename
        self.role = role
        self.content_type = mimetypes.guess_type(filename)[0] or "application/octet-stream"


def _session() -> requests.Session:
    session = requests.Session()
    # Without an auth of its own, requests would take one from ~/.netrc and overwrite ours.
    session.auth = lambda request: request
    return session


@contextmanager
def _named() -> Iterator[None]:
    """Give everything that can go wrong with the store its failure code."""
    try:
        yield
    except Transient as error:
        raise RunError(FailureCode.STORAGE, f"gave up waiting: {error}") from None
    except (Turned, Gone, Refusal, UrlExpired) as error:
        raise RunError(FailureCode.STORAGE, str(error)) from None
    except BadName as error:
        raise RunError(FailureCode.USER_ERROR, str(error)) from None


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        file = open(path, "rb")  # noqa: SIM115 (only opening it may be the caller's fault)
    except OSError as error:
        raise RunError(FailureCode.USER_ERROR, f"cannot publish {path.name}: {error.strerror}") from None
    with file:
        yield file
