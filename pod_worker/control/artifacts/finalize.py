"""Finalize: read an uploaded object back, compare it with what was promised, and only then register it.

Repeating is harmless at every point. An object that is not what was promised is removed, unless it is
registered; nothing is registered for an attempt that has lost its run.
"""

from __future__ import annotations

import asyncio

from anyio import CapacityLimiter, to_thread
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from pod_worker.artifacts.keys import artifact_id
from pod_worker.artifacts.object_store import Digest, InvalidPartsError, ObjectStore, StoredObject, UploadGoneError
from pod_worker.artifacts.wire import Finalized, FinalizeRequest
from pod_worker.control.artifacts.access import (
    artifact_view,
    authorize_attempt,
    check_values,
    fence_from_request,
    fenced,
    parse_run_key,
)
from pod_worker.control.web.problem import ProblemError
from pod_worker.core.stage import Artifact
from pod_worker.store import artifact_registry as registry
from pod_worker.store.mongo import Mongo

_FORGET_SECONDS = 300.0


class ArtifactFinalizer:
    def __init__(self, database: Mongo, store: ObjectStore, wait_seconds: float) -> None:
        self._database = database
        self._store = store
        self._wait_seconds = wait_seconds
        self._readings = ObjectDigests(store)

    async def finalize(self, run_id: str, body: FinalizeRequest) -> Finalized | JSONResponse:
        """Verify an uploaded object and register it. 202 means that reading it takes longer: ask again."""
        found = await run_in_threadpool(self._assemble, run_id, body)
        if isinstance(found, Finalized):
            return found
        digest = await self._readings.digest(found, self._wait_seconds)
        if digest is None:
            return JSONResponse({"code": "verifying"}, 202, {"Retry-After": "1"})
        return await run_in_threadpool(self._verify_and_register, run_id, body, digest)

    def _assemble(self, run_id: str, body: FinalizeRequest) -> Finalized | StoredObject:
        """Up to the point where the object has to be read: whole, and of the promised size."""
        attempt = authorize_attempt(self._database, run_id, body)
        check_values(body, body.role)
        known = registry.verified(self._database, artifact_id(run_id, body.kind, body.sha256))
        if known is not None:
            return self._already_registered(run_id, body, known)
        key = str(parse_run_key(run_id, body.key, attempt))
        if body.upload_id:
            self._complete(key, body.upload_id, body)
        found = self._store.stat(key)
        if found is None:
            raise ProblemError(404, "object_missing", f"there is no object {key}: upload it, then finalize again")
        if found.bytes != body.bytes:
            raise self._mismatch(key, f"it has {found.bytes} bytes, {body.bytes} were promised")
        return found

    def _complete(self, key: str, upload_id: str, body: FinalizeRequest) -> None:
        try:
            self._store.complete_multipart(key, upload_id, body.parts or [])
        except UploadGoneError:
            # An earlier finalize may have completed it; then the object is there and its hash decides.
            if self._store.stat(key) is None:
                raise ProblemError(404, "upload_gone", f"the upload of {key} is gone: start it again") from None
        except InvalidPartsError as error:
            raise ProblemError(422, "bad_parts", f"{key}: {error}: start the upload again") from None

    def _verify_and_register(self, run_id: str, body: FinalizeRequest, digest: Digest) -> Finalized:
        if (digest.bytes, digest.sha256) != (body.bytes, body.sha256):
            raise self._mismatch(body.key, f"its sha256 is {digest.sha256}, {body.sha256} was promised")
        made = Artifact(body.key, body.bytes, body.sha256, body.kind, body.content_type, body.role)
        return self._write(run_id, body, made)

    def _already_registered(self, run_id: str, body: FinalizeRequest, known: registry.ArtifactRow) -> Finalized:
        if body.role is None or body.role == known.role:
            return Finalized(artifact=artifact_view(known))
        content_type = known.content_type or body.content_type
        made = Artifact(known.key, body.bytes, body.sha256, body.kind, content_type, body.role)
        return self._write(run_id, body, made)

    def _write(self, run_id: str, body: FinalizeRequest, made: Artifact) -> Finalized:
        name = artifact_id(run_id, made.kind, made.sha256)
        row = registry.register(self._database, name, run_id, fence_from_request(run_id, body), made)
        if row is None:
            raise fenced(run_id)
        return Finalized(artifact=artifact_view(row))

    def _mismatch(self, key: str, why: str) -> ProblemError:
        if registry.verified_at_key(self._database, key) is None:
            self._store.delete(key)
        return ProblemError(422, "mismatch", f"{key} is not what was promised: {why}. It is not registered")


class ObjectDigests:
    """One reading of an object, however often and by how many finalize is asked, in threads of their own so that
    long readings never starve the other routes. What was read is remembered for a while, by the object's etag."""

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
        # The exception is looked at, or asyncio complains when nobody comes back for it.
        is_failed = task.cancelled() or task.exception() is not None
        seconds = 0.0 if is_failed else _FORGET_SECONDS
        task.get_loop().call_later(seconds, self._tasks.pop, name, None)
