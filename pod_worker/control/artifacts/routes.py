"""The artifact routes: leave to upload, verified registration, the list, and links to download.

No byte of an artifact passes through here: pods and browsers get presigned URLs. A registered object is never
overwritten: other bytes under a name that is taken get a key of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute

from pod_worker.artifacts.keys import ArtifactKey, InvalidNameError, artifact_id
from pod_worker.artifacts.object_store import ObjectStore, ObjectStoreError, UploadGoneError
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
from pod_worker.control.artifacts.access import (
    artifact_view,
    authorize_attempt,
    check_values,
    key_for,
    parse_run_key,
)
from pod_worker.control.artifacts.finalize import ArtifactFinalizer
from pod_worker.control.web.body import read_body
from pod_worker.control.web.problem import ProblemError
from pod_worker.store import artifact_registry as registry
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
) -> APIRouter:
    """All artifact routes, for `app.include_router`, in an app with `problem.install`.

    `authorize` and `authorize_download` are FastAPI dependencies that raise when the caller may not; the first
    guards the routes of one run. Files above `part_bytes` are uploaded in parts of (at least) that size.
    """
    routes = _Routes(database, object_store, part_bytes, url_seconds)
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
    def __init__(self, database: Mongo, store: ObjectStore, part_bytes: int, url_seconds: int) -> None:
        self._database = database
        self._store = store
        self._part_bytes = part_bytes
        self._url_seconds = url_seconds

    def presign(self, run_id: str, body: PresignRequest) -> UploadGrant | DownloadUrl:
        """A URL (or part URLs) to upload to, or one to download from; neither where the bytes are known."""
        return self._get(run_id, body) if body.action == "get" else self._presign_put(run_id, body)

    def abort(self, run_id: str, body: AbortRequest) -> None:
        """Forget a multipart upload that will not be finished."""
        attempt = authorize_attempt(self._database, run_id, body)
        self._store.abort(str(parse_run_key(run_id, body.key, attempt)), body.upload_id)

    def of_run(self, run_id: str) -> list[ArtifactView]:
        """Every artifact of the run, oldest first."""
        return [artifact_view(row) for row in registry.of_run(self._database, run_id)]

    def download(self, key: str) -> RedirectResponse:
        """Redirects to a short-lived URL of the object."""
        try:
            ArtifactKey.read(key)
        except InvalidNameError as error:
            raise ProblemError(404, "object_missing", str(error)) from None
        return RedirectResponse(self._link(key), 307, headers={"Cache-Control": "no-store"})

    def _get(self, run_id: str, body: PresignRequest) -> DownloadUrl:
        key = str(parse_run_key(run_id, body.key)) if body.key else self._newest(run_id, body.filename or "")
        row = registry.verified_at_key(self._database, key)
        return DownloadUrl(
            key=key, url=self._link(key), expires_in_s=self._url_seconds, sha256=row.sha256 if row else None
        )

    def _link(self, key: str) -> str:
        if self._store.stat(key) is None:
            raise ProblemError(404, "object_missing", f"there is no object {key}")
        return self._store.presign_get(key, self._url_seconds, attachment=key.rsplit("/", 1)[-1])

    def _newest(self, run_id: str, filename: str) -> str:
        """The key of that name in the latest attempt that has it."""
        rows = registry.of_run(self._database, run_id)
        named = [row for row in rows if row.key.split("/", 3) == ["runs", run_id, str(row.attempt), filename]]
        if not named:
            raise ProblemError(
                404, "object_missing", f"run {run_id[:200]!r} has no artifact named {filename[:200]!r}"
            )
        return max(named, key=lambda row: row.attempt or 0).key

    def _presign_put(self, run_id: str, body: PresignRequest) -> UploadGrant:
        attempt = authorize_attempt(self._database, run_id, body)
        check_values(body)
        if body.kind and body.sha256:
            row = registry.verified(self._database, artifact_id(run_id, body.kind, body.sha256))
            if row is not None:
                return UploadGrant(key=row.key, registered=True, artifact=artifact_view(row))
        asked = parse_run_key(run_id, body.key, attempt) if body.key else key_for(run_id, attempt, body.filename)
        key = self._unused_key(asked, body.sha256)
        if body.bytes is not None and body.bytes > self._part_bytes:
            return self._put_parts(key, body, body.bytes)
        url = self._store.presign_put(key, self._url_seconds)
        return UploadGrant(key=key, url=url, expires_in_s=self._url_seconds)

    def _put_parts(self, key: str, body: PresignRequest, total_bytes: int) -> UploadGrant:
        size = part_size(total_bytes, self._part_bytes)
        total = -(-total_bytes // size)
        upload_id, stored = self._upload(key, body)
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

    def _upload(self, key: str, body: PresignRequest) -> tuple[str, list[StoredPart]]:
        """The upload asked for and what the store has of it, or a new one in its place."""
        try:
            if body.upload_id and body.first_part is None:
                return body.upload_id, self._store.list_parts(key, body.upload_id)
            if body.upload_id:
                self._store.list_parts(key, body.upload_id, limit=1)
                return body.upload_id, []
        except UploadGoneError:
            if body.first_part is not None:
                raise ProblemError(404, "upload_gone", f"the upload of {key} is gone: start it again") from None
        return self._store.create_multipart(key, body.content_type or "application/octet-stream"), []

    def _unused_key(self, key: ArtifactKey, sha256: str | None) -> str:
        """A key under which nothing else is registered."""
        taken = registry.verified_at_key(self._database, str(key))
        if taken is None or (sha256 and taken.sha256 == sha256):
            return str(key)
        if not sha256:
            raise ProblemError(
                409, "key_taken", f"{key} is registered and is never overwritten: use another filename"
            )
        try:
            return str(key.with_content_suffix(sha256))
        except InvalidNameError as error:
            raise ProblemError(422, "bad_key", str(error)) from None


class _ArtifactRoute(APIRoute):
    """Bounds the body, and says in the app's own terms when the object store is away."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            # Where FastAPI looks first: reading it here is what bounds it.
            request._body = await read_body(request.stream(), request.headers)
            try:
                return await handle(request)
            except ObjectStoreError as error:
                raise ProblemError(503, "store_away", str(error), headers={"Retry-After": "2"}) from None

        return handled
