"""The artifact routes: leave to upload, verified registration, the list, and links to download.

Finalize reads the object back from the store and compares size and hash before anything is registered, under
the fence of the attempt that asks. No byte of an artifact passes through here, and a registered object is never
overwritten or removed by these routes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from datetime import datetime
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.routing import APIRoute
from pymongo.errors import PyMongoError
from starlette.concurrency import run_in_threadpool

from pod_worker.artifacts.keys import BadName, Key, artifact_id, is_sha256, is_word
from pod_worker.artifacts.object_store import (
    BadParts,
    Digest,
    ObjectStore,
    ObjectStoreError,
    StoredObject,
    UploadGone,
)
from pod_worker.artifacts.wire import (
    PAGE_PARTS,
    PART_BYTES,
    AbortRequest,
    ArtifactView,
    Download,
    Finalized,
    FinalizeRequest,
    Grant,
    PartUrl,
    PresignRequest,
    Problem,
    part_size,
)
from pod_worker.core.lease import Fence
from pod_worker.core.stage import Artifact
from pod_worker.store import artifacts as registry
from pod_worker.store.mongo import Mongo

T = TypeVar("T")

OBJECT_LIMIT_BYTES = 5 * 1024**4  # S3's limit on one object
URL_SECONDS = 3600
WAIT_SECONDS = 20.0  # finalize answers 202 after this; proxies give up on silent requests soon after
_MEDIA_TYPE = re.compile(r"[\w.+-]{1,100}/[\w.+-]{1,100}(; ?[\x20-\x7e]{1,100})?")


def router(
    database: Mongo,
    object_store: ObjectStore,
    authorize: Callable[..., object],
    *,
    part_bytes: int = PART_BYTES,
    url_seconds: int = URL_SECONDS,
    wait_seconds: float = WAIT_SECONDS,
) -> APIRouter:
    """All artifact routes, ready for `app.include_router`. `authorize` is a FastAPI dependency that raises when
    the caller may not; it guards every route. Files above `part_bytes` are uploaded in parts."""
    routes = _Routes(database, object_store, part_bytes, url_seconds, wait_seconds)
    made = APIRouter(tags=["artifacts"], dependencies=[Depends(authorize)], route_class=_ProblemRoute)
    under = "/api/runs/{run_id}/artifacts"
    short: dict[str, Any] = {"response_model_exclude_none": True}
    made.add_api_route(
        f"{under}/presign", routes.presign, methods=["POST"], response_model=Grant | Download, **short
    )
    made.add_api_route(f"{under}/finalize", routes.finalize, methods=["POST"], response_model=Finalized, **short)
    made.add_api_route(f"{under}/abort", routes.abort, methods=["POST"], status_code=204, response_model=None)
    made.add_api_route(under, routes.list, methods=["GET"], response_model=list[ArtifactView], **short)
    made.add_api_route("/api/artifacts/{key:path}", routes.download, methods=["GET"], response_model=None)
    return made


class Refused(Exception):
    """An answer of 4xx, as problem+json."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail


class _Routes:
    def __init__(
        self, database: Mongo, store: ObjectStore, part_bytes: int, url_seconds: int, wait_seconds: float
    ) -> None:
        self._database = database
        self._store = store
        self._part_bytes = part_bytes
        self._url_seconds = url_seconds
        self._wait_seconds = wait_seconds
        self._readers = _Readers(store)

    def presign(self, run_id: str, body: PresignRequest) -> Grant | Download:
        """A URL (or part URLs) to upload to, or one to download from; nothing where the bytes are known."""
        return self._get(run_id, body) if body.action == "get" else self._put(run_id, body)

    async def finalize(self, run_id: str, body: FinalizeRequest) -> Finalized | JSONResponse:
        """Verify an uploaded object and register it. Repeat until it is not 202; repeating is harmless."""
        found = await run_in_threadpool(self._assemble, run_id, body)
        if isinstance(found, Finalized):
            return found
        digest = await self._readers.digest(found, self._wait_seconds)
        if digest is None:
            return JSONResponse({"code": "verifying"}, 202, headers={"Retry-After": "1"})
        return await run_in_threadpool(self._register, run_id, body, digest)

    def abort(self, run_id: str, body: AbortRequest) -> None:
        """Forget a multipart upload that will not be finished."""
        self._attempt(run_id, body.attempt, body.lease_token)
        self._store.abort(str(_key_in(run_id, body.key)), body.upload_id)

    def list(self, run_id: str) -> list[ArtifactView]:
        """Every artifact of the run, oldest first."""
        return [_view(row) for row in registry.of_run(self._database, run_id)]

    def download(self, key: str) -> RedirectResponse:
        """Redirects to a short-lived URL of the object."""
        name = _read_key(key)
        if self._store.stat(key) is None:
            raise Refused(404, "object_missing", f"there is no object {key}")
        url = self._store.presign_get(key, self._url_seconds, name.filename.rsplit("/", 1)[-1])
        return RedirectResponse(url, 307, headers={"Cache-Control": "no-store"})

    def _get(self, run_id: str, body: PresignRequest) -> Download:
        key = str(_key_in(run_id, body.key)) if body.key else self._newest(run_id, body.filename or "")
        if self._store.stat(key) is None:
            raise Refused(404, "object_missing", f"there is no object {key}")
        row = registry.verified_at_key(self._database, key)
        url = self._store.presign_get(key, self._url_seconds, key.rsplit("/", 1)[-1])
        return Download(key=key, url=url, expires_in_s=self._url_seconds, sha256=row.sha256 if row else None)

    def _newest(self, run_id: str, filename: str) -> str:
        named = [
            row
            for row in registry.of_run(self._database, run_id)
            if row.key.startswith(f"runs/{run_id}/") and row.key.split("/", 3)[3:] == [filename]
        ]
        if not named:
            raise Refused(404, "object_missing", f"run {run_id} has no artifact named {filename[:200]!r}")
        return max(named, key=lambda row: row.attempt or 0).key

    def _put(self, run_id: str, body: PresignRequest) -> Grant:
        attempt = self._attempt(run_id, body.attempt, body.lease_token)
        _check(body.kind, body.sha256, body.bytes, body.content_type, None)
        if body.kind and body.sha256:
            row = registry.verified(self._database, artifact_id(run_id, body.kind, body.sha256))
            if row is not None:
                return Grant(key=row.key, registered=True, artifact=_view(row))
        key = self._free(_target(run_id, attempt, body), body.sha256)
        if body.bytes is None or body.bytes <= self._part_bytes:
            url = self._store.presign_put(key, self._url_seconds)
            return Grant(key=key, url=url, expires_in_s=self._url_seconds)
        return self._put_parts(key, body, body.bytes)

    def _put_parts(self, key: str, body: PresignRequest, total_bytes: int) -> Grant:
        size = part_size(total_bytes, self._part_bytes)
        total = -(-total_bytes // size)
        upload_id, stored = body.upload_id, []
        if upload_id and body.first_part is None:
            try:
                stored = self._store.list_parts(key, upload_id)
            except UploadGone:
                upload_id = None
        if not upload_id:
            upload_id = self._store.create_multipart(key, body.content_type or "application/octet-stream")
        first = max(body.first_part or 1, 1)
        last = min(first + min(max(body.part_count or PAGE_PARTS, 1), 1000) - 1, total)
        urls = [
            PartUrl(number=n, url=self._store.presign_part(key, upload_id, n, self._url_seconds))
            for n in range(first, last + 1)
        ]
        return Grant(
            key=key,
            upload_id=upload_id,
            part_bytes=size,
            parts_total=total,
            parts=urls,
            stored=stored,
            expires_in_s=self._url_seconds,
        )

    def _free(self, key: Key, sha256: str | None) -> str:
        """A key under which nothing else is registered."""
        taken = registry.verified_at_key(self._database, str(key))
        if taken is None or (sha256 and taken.sha256 == sha256):
            return str(key)
        if not sha256:
            raise Refused(
                409, "key_taken", f"{key} is registered already and is never overwritten: use another filename"
            )
        return str(key.told_apart(sha256))

    def _assemble(self, run_id: str, body: FinalizeRequest) -> Finalized | StoredObject:
        """Up to the point where the object has to be read: the whole object, of the promised size."""
        attempt = self._attempt(run_id, body.attempt, body.lease_token)
        _check(body.kind, body.sha256, body.bytes, body.content_type, body.role)
        known = registry.verified(self._database, artifact_id(run_id, body.kind, body.sha256))
        if known is not None:
            return self._known(run_id, body, known)
        key = _key_in(run_id, body.key)
        if key.attempt > attempt:
            raise Refused(422, "bad_key", f"{key} belongs to an attempt that has not begun")
        if body.upload_id:
            self._complete(str(key), body.upload_id, body)
        found = self._store.stat(str(key))
        if found is None:
            raise Refused(404, "object_missing", f"there is no object {key}: upload it, then finalize again")
        if found.bytes != body.bytes:
            raise self._mismatch(str(key), f"it has {found.bytes} bytes, {body.bytes} were promised")
        return found

    def _complete(self, key: str, upload_id: str, body: FinalizeRequest) -> None:
        try:
            self._store.complete_multipart(key, upload_id, body.parts or [])
        except UploadGone:
            # An earlier finalize may have completed it; then the object is there and its hash decides.
            if self._store.stat(key) is None:
                raise Refused(404, "upload_gone", f"the upload of {key} is gone: start it again") from None
        except BadParts as error:
            raise Refused(422, "bad_parts", f"{key}: {error}: start the upload again") from None

    def _register(self, run_id: str, body: FinalizeRequest, digest: Digest) -> Finalized:
        if (digest.bytes, digest.sha256) != (body.bytes, body.sha256):
            raise self._mismatch(
                body.key, f"its sha256 is {digest.sha256} over {digest.bytes} bytes, {body.sha256} was promised"
            )
        made = Artifact(body.key, body.bytes, body.sha256, body.kind, body.content_type, body.role)
        return self._write(run_id, body, made)

    def _known(self, run_id: str, body: FinalizeRequest, known: registry.ArtifactRow) -> Finalized:
        if body.role is None or body.role == known.role:
            return Finalized(artifact=_view(known))
        kept_type = known.content_type or body.content_type
        made = Artifact(known.key, body.bytes, body.sha256, body.kind, kept_type, body.role)
        return self._write(run_id, body, made)

    def _write(self, run_id: str, body: FinalizeRequest, made: Artifact) -> Finalized:
        name = artifact_id(run_id, made.kind, made.sha256)
        fence = Fence(run_id, body.attempt or 0, body.lease_token) if body.lease_token else None
        row = registry.register(self._database, name, run_id, fence, made)
        if row is None:
            raise _fenced(run_id)
        return Finalized(artifact=_view(row))

    def _mismatch(self, key: str, why: str) -> Refused:
        if registry.verified_at_key(self._database, key) is None:
            self._store.delete(key)
        return Refused(422, "mismatch", f"{key} is not what was promised: {why}. It is not registered")

    def _attempt(self, run_id: str, attempt: int | None, token: str | None) -> int:
        """The attempt on whose behalf the caller writes. Refuses one that no longer holds the run."""
        found = registry.holder(self._database, run_id)
        if found is None:
            raise Refused(404, "run_not_found", f"there is no run {run_id[:200]!r}")
        if token is None:
            # Hand-made uploads, to runs that no worker holds: the bearer token is enough.
            if found.is_leased or attempt not in (None, found.attempt):
                raise _fenced(run_id)
            return found.attempt
        if attempt is None:
            raise Refused(422, "invalid", "a lease_token needs its attempt")
        if not registry.holds(self._database, run_id, Fence(run_id, attempt, token)):
            raise _fenced(run_id)
        return attempt


class _Readers:
    """At most one reading of an object at a time, however often finalize is asked, in threads of their own so
    that long readings never starve the other routes."""

    def __init__(self, store: ObjectStore, threads: int = 4) -> None:
        self._store = store
        self._limiter = CapacityLimiter(threads)
        self._running: dict[str, asyncio.Task[Digest]] = {}

    async def digest(self, found: StoredObject, wait_seconds: float) -> Digest | None:
        """None: still reading; ask again."""
        name = f"{found.key} {found.etag}"
        task = self._running.get(name)
        if task is None:
            task = self._running[name] = asyncio.create_task(self._read(found.key))
            task.add_done_callback(lambda done: self._forget_later(name, done))
        await asyncio.wait({task}, timeout=wait_seconds)
        if not task.done():
            return None
        self._running.pop(name, None)
        return task.result()

    async def _read(self, key: str) -> Digest:
        return await to_thread.run_sync(self._store.sha256, key, limiter=self._limiter, abandon_on_cancel=True)

    def _forget_later(self, name: str, task: asyncio.Task[Digest]) -> None:
        if not task.cancelled():
            task.exception()  # taken, or asyncio complains when nobody comes back for it
        task.get_loop().call_later(600, self._running.pop, name, None)


class _ProblemRoute(APIRoute):
    """Turns what goes wrong in these routes into problem+json, whatever app they are mounted in."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except Refused as error:
                return _problem(error.status, error.code, error.detail)
            except BadName as error:
                return _problem(422, "bad_key", str(error))
            except RequestValidationError as error:
                return _problem(422, "invalid", "; ".join(map(_said, error.errors()[:5])))
            except ObjectStoreError as error:
                return _problem(503, "store_unavailable", str(error), {"Retry-After": "2"})
            except PyMongoError as error:
                detail = f"MongoDB did not answer ({type(error).__name__}); try again"
                return _problem(503, "database_unavailable", detail, {"Retry-After": "2"})

        return handled


def _problem(status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    title = code.replace("_", " ").capitalize()
    body = Problem(title=title, status=status, detail=detail, code=code)
    return JSONResponse(asdict(body), status, headers, media_type="application/problem+json")


def _said(error: Any) -> str:
    return f"{'.'.join(str(part) for part in error['loc'][1:])}: {error['msg']}"


def _fenced(run_id: str) -> Refused:
    return Refused(
        409, "fenced", f"run {run_id[:200]} is not held by this attempt and lease token: stop, another one owns it"
    )


def _read_key(text: str) -> Key:
    try:
        return Key.read(text)
    except BadName as error:
        raise Refused(404, "object_missing", str(error)) from None


def _key_in(run_id: str, text: str) -> Key:
    key = Key.read(text)
    if key.run_id != run_id:
        raise BadName(f"{text[:200]!r} is not under runs/{run_id}/")
    return key


def _target(run_id: str, attempt: int, body: PresignRequest) -> Key:
    if body.key is None:
        return Key.of(run_id, attempt, body.filename or "")
    # A later attempt may finish what an earlier one began to upload: the bytes are verified either way.
    key = _key_in(run_id, body.key)
    if key.attempt > attempt:
        raise BadName(f"{body.key[:200]!r} belongs to an attempt that has not begun")
    return key


def _check(
    kind: str | None, sha256: str | None, size: int | None, content_type: str | None, role: str | None
) -> None:
    if kind is not None and not is_word(kind):
        raise Refused(422, "invalid", f"kind {kind[:80]!r} must be 1 to 64 letters, digits, '_', '.' or '-'")
    if role is not None and not is_word(role):
        raise Refused(422, "invalid", f"role {role[:80]!r} must be 1 to 64 letters, digits, '_', '.' or '-'")
    if sha256 is not None and not is_sha256(sha256):
        raise Refused(422, "invalid", "sha256 must be 64 lower-case hexadecimal digits")
    if size is not None and not 0 <= size <= OBJECT_LIMIT_BYTES:
        raise Refused(422, "invalid", f"bytes must be between 0 and {OBJECT_LIMIT_BYTES}")
    if content_type is not None and not _MEDIA_TYPE.fullmatch(content_type):
        raise Refused(422, "invalid", f"content_type {content_type[:80]!r} is not a media type like text/plain")


def _view(row: registry.ArtifactRow) -> ArtifactView:
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


def _moment(at: datetime | None) -> str | None:
    return at.isoformat().replace("+00:00", "Z") if at else None
