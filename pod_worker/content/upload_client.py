"""Uploads a scanned tree, or one file, to the content store: only what is missing.

`ContentClient(url, token).upload(tree)` returns the manifest's hash, which a run's parameters name. An upload that
was cut off goes on where the last finished pack ended. Temporary errors are repeated for `retry_seconds`.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec
import requests

from pod_worker.content.manifest import FileEntry
from pod_worker.content.tree import Tree, stable_hash
from pod_worker.content.wire import (
    HASHES_LIMIT,
    OBJECT_LIMIT_BYTES,
    PACK_BYTES,
    DataSetRequest,
    DataSetView,
    ManifestRecorded,
    Missing,
    MissingRequest,
    PackFile,
    PackFinalized,
    PackFinalizeRequest,
    PackGrant,
)
from pod_worker.control_plane_client import (
    ControlPlaneClient,
    RefusedRequestError,
    TemporaryRequestError,
    repeat,
)
from pod_worker.core.credentials.bearer import BearerAuth

T = TypeVar("T")
TIMEOUT_SECONDS = (10.0, 600.0)  # finalize reads the whole pack back
RETRY_SECONDS = 60.0
PACK_FILES = 10_000


class ContentUploadError(Exception):
    """The upload did not succeed: the message has cause and fix.

    `code` is the control plane's, or empty.
    """

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class UploadProgress:
    """Bytes of the missing files: uploaded so far, and in all."""

    sent: int
    total: int


Report = Callable[[UploadProgress], None]


class ContentClient:
    """Speaks for an operator.

    `token` is CONTROL_PLANE_TOKEN; None on an open loopback stack.
    """

    def __init__(self, url: str, token: str | None, *, retry_seconds: float = RETRY_SECONDS) -> None:
        self._client = ControlPlaneClient(url, token)
        self._store = requests.Session()
        self._retry_seconds = retry_seconds

    def missing(self, tree: Tree) -> list[FileEntry]:
        """The files of the tree that an upload would send, one per content.

        Empty when all is stored.
        """
        if self._is_known(tree.sha256):
            return []
        by_hash = {each.sha256: each for each in tree.manifest.files}
        names = list(by_hash)
        wanted: list[str] = []
        for start in range(0, len(names), HASHES_LIMIT):
            asked = MissingRequest(hashes=names[start : start + HASHES_LIMIT])
            wanted += self._post("/api/content/missing", asked, Missing).hashes
        return [by_hash[name] for name in wanted]

    def upload(self, tree: Tree, progress: Report | None = None) -> str:
        """Store every file of the tree and its manifest; returns the manifest's SHA-256.

        Raises ContentUploadError.
        """
        if self._is_known(tree.sha256):
            return tree.sha256
        for _ in range(3):  # a sweep may take content between two requests
            self._send(tree.root, self.missing(tree), progress)
            try:
                return self._call("/api/content/manifests", tree.encoded, ManifestRecorded).sha256
            except ContentUploadError as error:
                if error.code != "content_missing":
                    raise
        raise ContentUploadError("the control plane keeps losing uploaded files: see its log")

    def put_data_folder(self, tree: Tree, name: str, progress: Report | None = None) -> DataSetView:
        """Store the files of `tree` and give them the key of a folder.

        Raises ContentUploadError.
        """
        request = DataSetRequest(name=name, sha256=self.upload(tree, progress), is_folder=True)
        return self._post("/api/content/data", request, DataSetView)

    def put_data(self, file: Path, name: str | None = None, progress: Report | None = None) -> DataSetView:
        """Store one file and give it a key that parameters accept.

        Raises ContentUploadError, OSError.
        """
        seen, sha256 = stable_hash(file.resolve())
        # A pack of this file alone: its object is the file.
        entry = FileEntry(path=file.resolve().name, sha256=sha256, bytes=seen.st_size)
        request = DataSetRequest(name=name or file.name, sha256=sha256)
        try:
            return self._post("/api/content/data", request, DataSetView)
        except ContentUploadError as error:
            if error.code != "content_missing":
                raise
        self._send(file.resolve().parent, [entry], progress)
        return self._post("/api/content/data", request, DataSetView)

    def data_sets(self) -> list[DataSetView]:
        return self._repeated(
            lambda: self._decoded(self._request("GET", "/api/content/data", None), list[DataSetView])
        )

    def _is_known(self, manifest: str) -> bool:
        return self._post("/api/content/missing", MissingRequest(manifest=manifest), Missing).is_known

    def _send(self, root: Path, files: list[FileEntry], progress: Report | None) -> None:
        total, sent = sum(each.bytes for each in files), 0

        def report(count: int) -> None:
            if progress:
                progress(UploadProgress(sent + count, total))

        for pack in packs_of(files):
            self._send_pack(root, pack, report)
            sent += sum(each.bytes for each in pack)

    def _send_pack(self, root: Path, files: list[FileEntry], report: Callable[[int], None]) -> None:
        """`report` gets the bytes of this pack that were sent so far."""
        size = sum(each.bytes for each in files)
        if size > OBJECT_LIMIT_BYTES:
            raise ContentUploadError(f"{files[0].path!r} has more than 5 GiB: split it into several files")
        body = _joined(root, files) if size <= PACK_BYTES else None
        sha256 = hashlib.sha256(body).hexdigest() if body is not None else files[0].sha256
        parts = [PackFile(sha256=each.sha256, bytes=each.bytes) for each in files]

        def attempt() -> None:
            grant = self._decoded(self._request("POST", "/api/content/packs/presign", b""), PackGrant)
            with io.BytesIO(body) if body is not None else open(root / files[0].path, "rb") as file:
                self._put(grant.url, _CountedBody(file, size, report) if size else b"")
            report(size)
            request = PackFinalizeRequest(key=grant.key, sha256=sha256, bytes=size, files=parts)
            encoded = msgspec.json.encode(request)
            self._decoded(self._request("POST", "/api/content/packs/finalize", encoded), PackFinalized)

        try:
            self._repeated(attempt)
        except ContentUploadError as error:
            if error.code != "mismatch":
                raise
            changed = files[0].path if len(files) == 1 else "a file"
            raise ContentUploadError(f"{changed!r} changed while it was uploaded: submit again") from None

    def _put(self, url: str, body: Any) -> None:
        try:
            # No token: a presigned URL carries its own signature. The empty auth keeps ~/.netrc out.
            answer = self._store.put(
                url, data=body, auth=BearerAuth(None), timeout=TIMEOUT_SECONDS, allow_redirects=False
            )
        except requests.RequestException as error:
            raise TemporaryRequestError(f"no answer from the object store ({type(error).__name__})") from None
        if answer.status_code not in (200, 201, 204):
            raise TemporaryRequestError(f"the object store answered {answer.status_code}")

    def _post(self, path: str, body: Any, kind: type[T]) -> T:
        return self._call(path, msgspec.json.encode(body), kind)

    def _call(self, path: str, body: bytes, kind: type[T]) -> T:
        return self._repeated(lambda: self._decoded(self._request("POST", path, body), kind))

    def _request(self, method: str, path: str, body: bytes | None) -> bytes:
        try:
            return self._client.request(method, path, body, timeout=TIMEOUT_SECONDS)
        except RefusedRequestError as error:
            detail = error.detail or f"status {error.status}"
            if error.status in (401, 403):
                detail += ": check CONTROL_PLANE_TOKEN"
            raise ContentUploadError(
                f"the control plane at {self._client.url} refused the upload: {detail}", error.code
            ) from None

    def _decoded(self, body: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.MsgspecError:
            raise ContentUploadError(
                f"{self._client.url} is no control plane of this version: check CONTROL_PLANE_URL"
            ) from None

    def _repeated(self, call: Callable[[], T]) -> T:
        try:
            return repeat(call, self._retry_seconds, first_seconds=0.2, cap_seconds=10.0)
        except TemporaryRequestError as error:
            fix = "check that it is up, then submit again: finished parts are kept"
            raise ContentUploadError(f"the control plane at {self._client.url}: {error}: {fix}") from None


class _CountedBody:
    """A file-like body of a request; `report` gets how much of it was read."""

    def __init__(self, file: BinaryIO, size: int, report: Callable[[int], None]) -> None:
        self._file, self._size, self._report = file, size, report
        self._read = 0

    def __len__(self) -> int:
        return self._size

    def read(self, count: int = -1) -> bytes:
        block = self._file.read(count)
        self._read += len(block)
        self._report(self._read)
        return block


def packs_of(files: Iterable[FileEntry]) -> Iterator[list[FileEntry]]:
    """In order; each pack has one larger file, or files up to PACK_BYTES in all."""
    pack: list[FileEntry] = []
    size = 0
    for each in files:
        if pack and (size + each.bytes > PACK_BYTES or len(pack) == PACK_FILES):
            yield pack
            pack, size = [], 0
        pack.append(each)
        size += each.bytes
    if pack:
        yield pack


def _joined(root: Path, files: list[FileEntry]) -> bytes:
    """The bytes of the files, each as it was scanned. Raises ContentUploadError."""
    parts = []
    for each in files:
        try:
            handle = os.open(root / each.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(handle, "rb") as file:
                part = file.read(each.bytes + 1)
        except OSError as error:
            raise ContentUploadError(f"{each.path!r}: {error.strerror}: submit again") from None
        if hashlib.sha256(part).hexdigest() != each.sha256:
            raise ContentUploadError(f"{each.path!r} changed since it was scanned: submit again")
        parts.append(part)
    return b"".join(parts)
