"""One file on its way to the store: whole or in parts.

Each part is in the ledger once the store has it.

Each try uses a new presigned URL, so that an expired one is never retried. This module registers nothing and does
not decide whether the store's copy is right.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import BinaryIO

import requests

from pod_worker.artifacts import transfer
from pod_worker.artifacts.api_client import ArtifactApiClient, RetryingCaller
from pod_worker.artifacts.ledger import UploadLedger, UploadRecord, UploadState
from pod_worker.artifacts.transfer import (
    Fingerprint,
    TransientError,
    UploadNotFoundError,
    UploadRejectedError,
    UrlExpiredError,
)
from pod_worker.artifacts.wire import FinalizeRequest, PresignRequest, UploadGrant
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.stage import StopSignal

_WHOLE = 0  # the number of the only "part" of a file sent in one PUT
_EXPIRED_LIMIT = 5  # new URLs in a row that the store rejects: then their age is not the reason


@dataclass(frozen=True, slots=True)
class PendingUpload:
    """What stays the same through all tries to upload one file."""

    file: BinaryIO
    fingerprint: Fingerprint
    filename: str
    role: str | None

    @property
    def content_type(self) -> str:
        return mimetypes.guess_type(self.filename)[0] or "application/octet-stream"

    def presign_request(self, entry: UploadRecord, first_part: int | None = None) -> PresignRequest:
        return PresignRequest(
            action="put",
            filename=self.filename,
            key=entry.key,
            content_type=self.content_type,
            bytes=entry.bytes,
            sha256=entry.sha256,
            kind=entry.kind,
            upload_id=entry.upload_id,
            first_part=first_part,
        )

    def finalize_request(self, entry: UploadRecord) -> FinalizeRequest:
        return FinalizeRequest(
            key=entry.key or "",
            bytes=entry.bytes,
            sha256=entry.sha256,
            kind=entry.kind,
            content_type=self.content_type,
            role=self.role,
            upload_id=entry.upload_id,
            parts=entry.stored_parts if entry.upload_id else None,
        )

    def check_unchanged(self, stop: StopSignal, by_hash: bool = False) -> None:
        """Raises RunError(USER_ERROR) when the file was written since it was hashed."""
        same = transfer.is_unmodified(self.file, self.fingerprint)
        if same and by_hash:
            same = transfer.fingerprint(self.file, stop.check).sha256 == self.fingerprint.sha256
        if not same:
            raise RunError(
                FailureCode.USER_ERROR,
                f"{self.filename} changed while it was being uploaded: publish it once its writer is done",
            )


class Uploader:
    def __init__(
        self,
        control: ArtifactApiClient,
        session: requests.Session,
        retrying: RetryingCaller,
        ledger: UploadLedger,
        stop: StopSignal,
        on_sent: Callable[[int], None] | None = None,
    ) -> None:
        self._on_sent = on_sent
        self._control = control
        self._session = session
        self._retrying = retrying
        self._ledger = ledger
        self._stop = stop

    def send(self, upload: PendingUpload, entry: UploadRecord, grant: UploadGrant, attempt: int) -> UploadRecord:
        """All bytes to the store; returns the entry as UPLOADED.

        Raises UploadNotFoundError when the store lost what was begun, UploadRejectedError,
        TransientError, ArtifactRequestError, LeaseLostError, RunError, and what the stop signal raises.
        """
        moved = replace(entry, key=grant.key, attempt=attempt, state=UploadState.UPLOADING)
        if grant.upload_id is None:
            moved = self._ledger.put(replace(moved, upload_id=None, part_bytes=None, parts={}))
            self._put(_Urls(self._control, upload, moved, grant), _WHOLE, 0, moved.bytes)
        else:
            moved = self._send_parts(upload, self._begun(moved, grant), grant)
        upload.check_unchanged(self._stop)
        return self._ledger.put(replace(moved, state=UploadState.UPLOADED))

    def _begun(self, entry: UploadRecord, grant: UploadGrant) -> UploadRecord:
        """The entry with those finished parts that both the ledger and the store know."""
        same = entry.upload_id == grant.upload_id
        if same and entry.part_bytes != grant.part_bytes:
            raise UploadNotFoundError("the control plane's part size has changed since the upload began")
        kept = {
            part.number: part.etag for part in grant.stored if same and entry.parts.get(part.number) == part.etag
        }
        return self._ledger.put(replace(entry, upload_id=grant.upload_id, part_bytes=grant.part_bytes, parts=kept))

    def _send_parts(self, upload: PendingUpload, entry: UploadRecord, grant: UploadGrant) -> UploadRecord:
        urls = _Urls(self._control, upload, entry, grant)
        size = grant.part_bytes or entry.bytes
        for number in range(1, -(-entry.bytes // size) + 1):
            self._stop.check()
            if number not in entry.parts:
                start = (number - 1) * size
                etag = self._put(urls, number, start, min(size, entry.bytes - start))
                entry = self._ledger.part(entry, number, etag)
        return entry

    def _put(self, urls: _Urls, number: int, start: int, length: int) -> str:
        """One part to the store, until it is there; returns its etag."""
        upload, expired = urls.upload, 0

        def once() -> str:
            nonlocal expired
            url = urls.url_for(number)
            # The content type of an upload in parts was fixed when it was begun.
            kind = upload.content_type if number == _WHOLE else None
            try:
                return transfer.put(
                    self._session, url, upload.file, start, length, self._stop.check, kind, self._on_sent
                )
            except UrlExpiredError as error:
                expired += 1
                if expired >= _EXPIRED_LIMIT:
                    raise UploadRejectedError(
                        f"{error}. Check the clocks and keys of store and control plane"
                    ) from None
                raise TransientError(str(error)) from None
            except UploadRejectedError:
                upload.check_unchanged(self._stop)  # if the file changed, that is the reason
                raise

        return self._retrying(once)


class _Urls:
    """Presigned URLs, each handed out once; more are asked for when they run out."""

    def __init__(
        self, control: ArtifactApiClient, upload: PendingUpload, entry: UploadRecord, grant: UploadGrant
    ) -> None:
        self.upload = upload
        self._control = control
        self._entry = entry
        self._urls = _urls(grant)

    def url_for(self, number: int) -> str:
        if number not in self._urls:
            self._urls = _urls(self._control.presign_put(self.upload.presign_request(self._entry, number or None)))
        if number not in self._urls:
            raise UploadNotFoundError("the control plane gave no URL for this part")
        return self._urls.pop(number)


def _urls(grant: UploadGrant) -> dict[int, str]:
    return {part.number: part.url for part in grant.parts} | ({_WHOLE: grant.url} if grant.url else {})
