"""The artifact routes: uploads, verified registration, the list, and downloads.

No byte of an artifact passes through here: pods and browsers get presigned URLs. An upload goes to a key of its
own, and no URL that can write ever points at a published key.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute

from pod_worker.artifacts.keys import ArtifactKey, InvalidNameError, UploadKey, artifact_id
from pod_worker.artifacts.object_store import ObjectStore, StoredObject, UploadGoneError
from pod_worker.artifacts.wire import (
    PAGE_PARTS,
    PART_BYTES,
    AbortRequest,
    ArtifactView,
    DownloadUrl,
    Finalized,
    PartUrl,
    PresignRequest,
    StoredPart,
    UploadGrant,
    part_size,
)
from pod_worker.content.wire import DATA_SETS, pack_key
from pod_worker.control.artifacts.access import (
    artifact_view,
    authorize_writer,
    check_no_conflict,
    check_values,
    key_for,
    parse_run_key,
    parse_upload_key,
)
from pod_worker.control.artifacts.finalize import ArtifactFinalizer
from pod_worker.control.web.body import read_body
from pod_worker.control.web.problem import ProblemError
from pod_worker.core.clock import SystemClock
from pod_worker.core.lease import RunWriter
from pod_worker.outbox.ids import UlidGenerator
from pod_worker.store import artifact_keys, content_index
from pod_worker.store import artifact_registry as registry
from pod_worker.store.artifact_registry import ArtifactRow
from pod_worker.store.mongo import Mongo

URL_SECONDS = 3600
WAIT_SECONDS = 20.0  # finalize answers 202 after this; proxies give up on silent requests soon after
_PAGE_LIMIT = 1000


def router(
    database: Mongo,
    object_store: ObjectStore,
    authorize: Callable[..., object],
    authorize_download: Callable[..., object],
    *,
    part_bytes: int = PART_BYTES,
    url_seconds: int = URL_SECONDS,
    wait_seconds: float = WAIT_SECONDS,
    new_upload: Callable[[], str] | None = None,
) -> APIRouter:
    """All artifact routes, for `app.include_router`, in an app with `problem.install`.

    `authorize` and `authorize_download` are FastAPI dependencies that raise when the caller may not; the first
    guards the routes of one run. Files above `part_bytes` are uploaded in parts of (at least) that size.
    `new_upload` makes the ULID of an upload.
    """
    new_upload = new_upload or UlidGenerator(SystemClock())
    routes = _Routes(database, object_store, part_bytes, url_seconds, new_upload)
    finalize = ArtifactFinalizer(database, object_store, wait_seconds).finalize
    made = APIRouter(tags=["artifacts"], route_class=_ArtifactRoute)
    guarded = [Depends(authorize)]
    under = "/api/runs/{run_id}/artifacts"
    short: dict[str, Any] = {"response_model_exclude_none": True, "dependencies": guarded}
    made.add_api_route(
        f"{under}/presign", routes.presign, methods=["POST"], response_model=UploadGrant | DownloadUrl, **short
    )
    made.add_api_route(f"{under}/finalize", finalize, methods=["POST"], response_model=Finalized, **short)
    made.add_api_route(
        f"{under}/abort",
        routes.abort,
        methods=["POST"],
        status_code=204,
        response_model=None,
        dependencies=guarded,
    )
    made.add_api_route(under, routes.of_run, methods=["GET"], response_model=list[ArtifactView], **short)
    made.add_api_route(
        "/api/artifacts/{key:path}",
        routes.download,
        methods=["GET"],
        response_model=None,
        dependencies=[Depends(authorize_download)],
    )
    return made


class _Routes:
    def __init__(
        self,
        database: Mongo,
        store: ObjectStore,
        part_bytes: int,
        url_seconds: int,
        new_upload: Callable[[], str],
    ) -> None:
        self._database = database
        self._store = store
        self._part_bytes = part_bytes
        self._url_seconds = url_seconds
        self._new_upload = new_upload

    def presign(self, run_id: str, body: PresignRequest) -> UploadGrant | DownloadUrl:
        """A URL (or part URLs) to upload to, or one to download from.

        None when the bytes are registered.
        """
        return self._get(run_id, body) if body.action == "get" else self._presign_put(run_id, body)

    def abort(self, run_id: str, body: AbortRequest) -> None:
        """Discard a multipart upload that will not be finished."""
        writer = authorize_writer(self._database, run_id, body)
        key = str(parse_upload_key(writer, body.key))
        self._store.abort(key, body.upload_id)
        artifact_keys.forget(self._database, key)

    def of_run(self, run_id: str) -> list[ArtifactView]:
        """Every artifact of the run, oldest first."""
        return [artifact_view(row) for row in registry.of_run(self._database, run_id)]

    def download(self, key: str) -> RedirectResponse:
        """Redirects to a short-lived URL of the object."""
        try:
            ArtifactKey.read(key)
        except InvalidNameError as error:
            raise ProblemError(404, "object_missing", str(error)) from None
        self._stored(key)
        return RedirectResponse(self._link(key), 307, headers={"Cache-Control": "no-store"})

    def _get(self, run_id: str, body: PresignRequest) -> DownloadUrl:
        if body.key and body.key.startswith(DATA_SETS):
            return self._data_set(body.key)
        key = str(parse_run_key(run_id, body.key)) if body.key else self._newest(run_id, body.filename or "")
        row = registry.verified_at_key(self._database, key)
        stored = self._stored(key)
        return DownloadUrl(
            key=key,
            url=self._link(key),
            expires_in_s=self._url_seconds,
            sha256=row.sha256 if row else None,
            bytes=row.bytes if row and row.bytes is not None else stored.bytes,
        )

    def _data_set(self, key: str) -> DownloadUrl:
        """An uploaded data set, which every run may read."""
        found = content_index.data_set(self._database, key)
        if found is None or found.pack is None:
            raise ProblemError(404, "object_missing", f"there is no data set {key[:200]}: pod-worker data list")
        url = self._store.presign_get(pack_key(found.pack), self._url_seconds, attachment=found.name)
        return DownloadUrl(key=key, url=url, expires_in_s=self._url_seconds, sha256=found.pack, bytes=found.bytes)

    def _stored(self, key: str) -> StoredObject:
        """Raises ProblemError 404."""
        stored = self._store.stat(key)
        if stored is None:
            raise ProblemError(404, "object_missing", f"there is no object {key}")
        return stored

    def _link(self, key: str) -> str:
        return self._store.presign_get(key, self._url_seconds, attachment=key.rsplit("/", 1)[-1])

    def _newest(self, run_id: str, filename: str) -> str:
        """The key of that name in the latest attempt that has it."""
        keys = [_key_of(row) for row in registry.of_run(self._database, run_id)]
        named = [key for key in keys if key and key.run_id == run_id and key.filename == filename]
        if not named:
            raise ProblemError(
                404, "object_missing", f"run {run_id[:200]!r} has no artifact named {filename[:200]!r}"
            )
        return str(max(named, key=lambda key: key.attempt))

    def _presign_put(self, run_id: str, body: PresignRequest) -> UploadGrant:
        writer = authorize_writer(self._database, run_id, body)
        check_values(body)
        if body.kind and body.sha256:
            known = registry.verified(self._database, artifact_id(run_id, body.kind, body.sha256))
            row = registry.publish_again(self._database, known.id, writer) if known else None
            if row is not None:
                return UploadGrant(key=row.key, registered=True, artifact=artifact_view(row))
        upload = self._upload_key(writer, body)
        check_no_conflict(self._database, upload.target)
        if body.bytes is not None and body.bytes > self._part_bytes:
            return self._put_parts(upload, body, body.bytes)
        key = str(upload)
        url = self._store.presign_put(key, self._url_seconds)
        return UploadGrant(key=key, url=url, expires_in_s=self._url_seconds)

    def _upload_key(self, writer: RunWriter, body: PresignRequest) -> UploadKey:
        """The upload that the caller goes on with, or a new one."""
        if body.key:
            return parse_upload_key(writer, body.key)
        target = key_for(writer.run_id, writer.attempt, body.filename)
        try:
            return UploadKey.of(self._new_upload(), target)
        except InvalidNameError as error:
            raise ProblemError(422, "bad_key", str(error)) from None

    def _put_parts(self, upload: UploadKey, body: PresignRequest, total_bytes: int) -> UploadGrant:
        size = part_size(total_bytes, self._part_bytes)
        total = -(-total_bytes // size)
        key = str(upload)
        upload_id, stored = self._multipart_upload(upload, body)
        first = max(body.first_part or 1, 1)
        count = min(max(body.part_count or PAGE_PARTS, 1), _PAGE_LIMIT)
        urls = [
            PartUrl(number=number, url=self._store.presign_part(key, upload_id, number, self._url_seconds))
            for number in range(first, min(first + count, total + 1))
        ]
        return UploadGrant(
            key=key,
            upload_id=upload_id,
            part_bytes=size,
            parts_total=total,
            parts=urls,
            stored=stored,
            expires_in_s=self._url_seconds,
        )

    def _multipart_upload(self, upload: UploadKey, body: PresignRequest) -> tuple[str, list[StoredPart]]:
        """The upload that the caller names and its stored parts, or a new upload."""
        key = str(upload)
        try:
            if body.upload_id and body.first_part is None:
                return body.upload_id, self._store.list_parts(key, body.upload_id)
            if body.upload_id:
                self._store.list_parts(key, body.upload_id, limit=1)
                return body.upload_id, []
        except UploadGoneError:
            if body.first_part is not None:
                raise ProblemError(404, "upload_gone", f"the upload of {key} is gone: start it again") from None
        upload_id = self._store.create_multipart(key, body.content_type or "application/octet-stream")
        artifact_keys.record_upload(self._database, key, upload.target.run_id, upload_id)
        return upload_id, []


def _key_of(row: ArtifactRow) -> ArtifactKey | None:
    try:
        return ArtifactKey.read(row.key)
    except InvalidNameError:
        return None


class _ArtifactRoute(APIRoute):
    """Bounds the body."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            # Where FastAPI looks first: reading it here is what bounds it.
            request._body = await read_body(request.stream(), request.headers)
            return await handle(request)

        return handled
