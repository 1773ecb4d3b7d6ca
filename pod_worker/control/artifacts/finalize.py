"""Finalize: read an upload back, compare its hash, publish and register it.

An upload has a key of its own. Only after its bytes are verified are they copied to the published key, which is
reserved for this one content; only the upload's key is ever deleted here. Repeating a finalize is harmless at
every point. Nothing is registered for an attempt that has lost its run.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from anyio import CapacityLimiter, to_thread
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from pod_worker.artifacts.keys import ArtifactKey, InvalidNameError, UploadKey, artifact_id
from pod_worker.artifacts.object_store import (
    Digest,
    InvalidPartsError,
    ObjectChangedError,
    ObjectMissingError,
    ObjectStore,
    ObjectStoreError,
    StoredObject,
    UploadGoneError,
)
from pod_worker.artifacts.wire import Finalized, FinalizeRequest
from pod_worker.control.artifacts.access import (
    artifact_view,
    authorize_writer,
    check_no_conflict,
    check_values,
    fenced,
    parse_upload_key,
)
from pod_worker.control.web.problem import ProblemError
from pod_worker.core.lease import RunWriter
from pod_worker.core.stage import Artifact
from pod_worker.store import artifact_keys
from pod_worker.store import artifact_registry as registry
from pod_worker.store.artifact_keys import KeyDoomedError
from pod_worker.store.mongo import Mongo

_FORGET_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class _Upload:
    """An upload that is whole and of the right size, and the attempt it is for."""

    writer: RunWriter
    key: UploadKey
    found: StoredObject


class ArtifactFinalizer:
    def __init__(self, database: Mongo, store: ObjectStore, wait_seconds: float) -> None:
        self._database = database
        self._store = store
        self._wait_seconds = wait_seconds
        self._digests = ObjectDigests(store)
        self._publishing = KeyedLocks()

    async def finalize(self, run_id: str, body: FinalizeRequest) -> Finalized | JSONResponse:
        """Verify an upload, publish it and register it.

        202 means that reading it takes longer: ask again.
        """
        upload = await run_in_threadpool(self._assemble, run_id, body)
        if isinstance(upload, Finalized):
            return upload
        try:
            digest = await self._digests.digest(upload.found, self._wait_seconds)
        except ObjectMissingError:  # a finalize of the same upload was faster
            return await run_in_threadpool(self._registered_meanwhile, upload, body)
        if digest is None:
            return JSONResponse({"code": "verifying"}, 202, {"Retry-After": "1"})
        async with self._publishing.hold(str(upload.key.target)):
            return await run_in_threadpool(self._publish_and_register, upload, body, digest)

    def _assemble(self, run_id: str, body: FinalizeRequest) -> Finalized | _Upload:
        """Up to the point where the object has to be read."""
        writer = authorize_writer(self._database, run_id, body)
        check_values(body, body.role)
        known = registry.verified(self._database, artifact_id(run_id, body.kind, body.sha256))
        if known is not None:
            return self._already_registered(writer, body, known)
        key = parse_upload_key(writer, body.key)
        check_no_conflict(self._database, key.target)
        if body.upload_id:
            self._complete(str(key), body.upload_id, body)
        found = self._store.stat(str(key))
        if found is None:
            raise ProblemError(404, "object_missing", f"there is no object {key}: upload it, then finalize again")
        if found.bytes != body.bytes:
            raise self._mismatch(key, f"it has {found.bytes} bytes, expected {body.bytes}")
        return _Upload(writer, key, found)

    def _complete(self, key: str, upload_id: str, body: FinalizeRequest) -> None:
        try:
            self._store.complete_multipart(key, upload_id, body.parts or [])
        except UploadGoneError:
            # An earlier finalize may have completed it; then the object is there and its hash decides.
            if self._store.stat(key) is None:
                raise ProblemError(404, "upload_gone", f"the upload of {key} is gone: start it again") from None
        except InvalidPartsError as error:
            raise ProblemError(422, "bad_parts", f"{key}: {error}: start the upload again") from None

    def _publish_and_register(self, upload: _Upload, body: FinalizeRequest, digest: Digest) -> Finalized:
        known = registry.verified(self._database, artifact_id(upload.writer.run_id, body.kind, body.sha256))
        if known is not None:  # by another finalize, since this one began
            return self._already_registered(upload.writer, body, known)
        if (digest.bytes, digest.sha256) != (body.bytes, body.sha256):
            raise self._mismatch(upload.key, f"its sha256 is {digest.sha256}, expected {body.sha256}")
        target = str(self._reserve(upload.key.target, body.sha256))
        try:
            self._publish(upload, target)
        except ObjectMissingError:
            return self._registered_meanwhile(upload, body)
        except ObjectChangedError as error:
            raise self._mismatch(upload.key, str(error)) from None
        artifact = Artifact(target, body.bytes, body.sha256, body.kind, body.content_type, body.role)
        finalized = self._register(upload.writer, artifact)
        self._discard(upload.key)
        return finalized

    def _reserve(self, target: ArtifactKey, sha256: str) -> ArtifactKey:
        """The key under which these bytes are published.

        Another one where the name is taken by other bytes.
        """
        for key in (target, self._suffixed(target, sha256)):
            row = registry.verified_at_key(self._database, str(key))
            if row is not None and row.sha256 != sha256:
                continue
            if artifact_keys.reserve(self._database, str(key), key.run_id, sha256):
                return key
        raise ProblemError(409, "key_taken", f"{target} is published and never overwritten: use another filename")

    @staticmethod
    def _suffixed(target: ArtifactKey, sha256: str) -> ArtifactKey:
        try:
            return target.with_content_suffix(sha256)
        except InvalidNameError as error:
            raise ProblemError(422, "bad_key", str(error)) from None

    def _publish(self, upload: _Upload, target: str) -> None:
        """Copy the verified bytes.

        What is registered under the key is these bytes already, and is not written.
        """
        if registry.verified_at_key(self._database, target) is None:
            self._store.copy(upload.found, target)

    def _registered_meanwhile(self, upload: _Upload, body: FinalizeRequest) -> Finalized:
        known = registry.verified(self._database, artifact_id(upload.writer.run_id, body.kind, body.sha256))
        if known is None:
            raise ProblemError(404, "object_missing", f"there is no object {upload.key}: upload it again")
        return self._already_registered(upload.writer, body, known)

    def _already_registered(
        self, writer: RunWriter, body: FinalizeRequest, known: registry.ArtifactRow
    ) -> Finalized:
        if body.role is None or body.role == known.role:
            again = registry.publish_again(self._database, known.id, writer)
            return Finalized(artifact=artifact_view(again or known))
        content_type = known.content_type or body.content_type
        return self._register(
            writer, Artifact(known.key, body.bytes, body.sha256, body.kind, content_type, body.role)
        )

    def _register(self, writer: RunWriter, artifact: Artifact) -> Finalized:
        name = artifact_id(writer.run_id, artifact.kind, artifact.sha256)
        try:
            row = registry.register(self._database, name, writer, artifact)
        except KeyDoomedError:
            artifact_keys.doom(self._database, artifact.key, writer.run_id)  # also the copy that was just made
            raise ProblemError(
                503, "key_doomed", f"{artifact.key} is being deleted: finalize again", headers={"Retry-After": "1"}
            ) from None
        if row is None:
            raise fenced(writer.run_id)
        return Finalized(artifact=artifact_view(row))

    def _mismatch(self, key: UploadKey, reason: str) -> ProblemError:
        self._discard(key)
        return ProblemError(422, "mismatch", f"{key} is not what was announced: {reason}. It is not registered")

    def _discard(self, key: UploadKey) -> None:
        try:
            self._store.delete(str(key))
            artifact_keys.forget(self._database, str(key))
        except ObjectStoreError:
            pass  # the sweep deletes it


class KeyedLocks:
    """One lock for each key that is in use.

    `rclone serve s3` shows a copy while it is being written, so two copies to one key must not overlap.
    """

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        self._users: Counter[str] = Counter()

    @asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[None]:
        self._users[key] += 1
        try:
            async with self._locks.setdefault(key, asyncio.Lock()):
                yield
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._locks[key]


class ObjectDigests:
    """Reads each object once, however often finalize is asked.

    In threads of its own, so that long readings do not block the other routes. Remembers a digest for a
    while, by the object's key and etag.
    """

    def __init__(self, store: ObjectStore, threads: int = 4) -> None:
        self._store = store
        self._limiter = CapacityLimiter(threads)
        self._tasks: dict[str, asyncio.Task[Digest]] = {}

    async def digest(self, found: StoredObject, wait_seconds: float) -> Digest | None:
        """None: still reading; ask again. Raises ObjectStoreError."""
        name = f"{found.key} {found.etag}"
        task = self._tasks.get(name)
        if task is None:
            task = self._tasks[name] = asyncio.create_task(self._read(found.key))
            task.add_done_callback(lambda done: self._forget_later(name, done))
        await asyncio.wait({task}, timeout=wait_seconds)
        return task.result() if task.done() else None

    async def _read(self, key: str) -> Digest:
        return await to_thread.run_sync(self._store.sha256, key, limiter=self._limiter, abandon_on_cancel=True)

    def _forget_later(self, name: str, task: asyncio.Task[Digest]) -> None:
        # Retrieve the exception, or asyncio logs an error for a task that no caller asks about again.
        is_failed = task.cancelled() or task.exception() is not None
        seconds = 0.0 if is_failed else _FORGET_SECONDS
        task.get_loop().call_later(seconds, self._tasks.pop, name, None)
