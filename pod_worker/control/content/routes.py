"""The content routes: missing content, packs, manifests, a run's workdir.

No byte of a file passes through here, a manifest apart. An upload goes to a key of its own. After the bytes of the
pack and of every file in it were read back and compared, the pack is copied to a key that its hash names.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.concurrency import run_in_threadpool

from pod_worker.artifacts.keys import InvalidNameError, check_filename
from pod_worker.artifacts.object_store import ObjectMissingError, ObjectStore
from pod_worker.content.manifest import MANIFEST_LIMIT_BYTES, InvalidManifestError, decode, sha256_of
from pod_worker.content.wire import (
    HASHES_LIMIT,
    DataSetRequest,
    DataSetView,
    ManifestRecorded,
    Missing,
    MissingRequest,
    PackFinalized,
    PackFinalizeRequest,
    PackGrant,
    PackPlace,
    PackRef,
    WorkdirAnswer,
    data_key,
    pack_key,
)
from pod_worker.control.content.packs import UPLOAD_KEY, PackVerifier, manifest_key
from pod_worker.control.web.body import read_body
from pod_worker.control.web.problem import ProblemError
from pod_worker.core.clock import SystemClock, rfc3339
from pod_worker.core.identifiers.content_hash import is_sha256
from pod_worker.outbox.ids import UlidGenerator
from pod_worker.store import content_index as index
from pod_worker.store.content_index import DataSet
from pod_worker.store.mongo import Mongo

URL_SECONDS = 3600
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


def router(database: Mongo, object_store: ObjectStore, authorize: Callable[..., object]) -> APIRouter:
    """All content routes, for `app.include_router`.

    `authorize` raises when the caller may not.
    """
    routes = _Routes(database, object_store)
    made = APIRouter(tags=["content"], dependencies=[Depends(authorize)])
    for path, method, call, model in (
        ("/api/content/missing", "POST", routes.missing, Missing),
        ("/api/content/packs/presign", "POST", routes.presign, PackGrant),
        ("/api/content/packs/finalize", "POST", routes.finalize, PackFinalized),
        ("/api/content/manifests", "POST", routes.manifest, ManifestRecorded),
        ("/api/content/data", "POST", routes.put_data, DataSetView),
        ("/api/content/data", "GET", routes.list_data, list[DataSetView]),
        ("/api/runs/{run_id}/workdir", "GET", routes.workdir, WorkdirAnswer),
        ("/api/runs/{run_id}/data", "GET", routes.data_folder, WorkdirAnswer),
    ):
        short: dict[str, Any] = {"methods": [method], "response_model": model}
        made.add_api_route(path, call, **short)
    return made


class _Routes:
    def __init__(self, database: Mongo, store: ObjectStore) -> None:
        self._database = database
        self._store = store
        self._packs = PackVerifier(database, store)
        self._new_upload = UlidGenerator(SystemClock())

    def missing(self, body: MissingRequest) -> Missing:
        """What to upload. What is there counts as used now, so that no sweep takes it."""
        _check_hashes([*body.hashes, *([body.manifest] if body.manifest else [])])
        if body.manifest is not None and not body.hashes:
            return Missing(is_known=index.use_manifest(self._database, body.manifest))
        found = index.locate(self._database, body.hashes)
        packs = index.use_packs(self._database, sorted({each.pack for each in found.values()}))
        stored = {name for name, each in found.items() if each.pack in packs}
        return Missing(hashes=[each for each in dict.fromkeys(body.hashes) if each not in stored])

    def presign(self) -> PackGrant:
        key = UPLOAD_KEY.format(self._new_upload())
        return PackGrant(key=key, url=self._store.presign_put(key, URL_SECONDS), expires_in_s=URL_SECONDS)

    def finalize(self, body: PackFinalizeRequest) -> PackFinalized:
        _check_hashes([body.sha256, *(each.sha256 for each in body.files)], limit=200_000)
        return self._packs.finalize(body)

    async def manifest(self, request: Request) -> ManifestRecorded:
        """Records the manifest in the body, when all its files are stored."""
        body = await read_body(request.stream(), request.headers, MANIFEST_LIMIT_BYTES)
        return await run_in_threadpool(self._record, body)

    def _record(self, body: bytes) -> ManifestRecorded:
        try:
            manifest = decode(body)
        except InvalidManifestError as error:
            raise ProblemError(422, "bad_manifest", str(error)) from None
        sha256, sizes = sha256_of(body), manifest.hashes()
        found = index.locate(self._database, list(sizes))
        if any(name not in found or found[name].bytes != size for name, size in sizes.items()):
            raise _incomplete()
        if not index.use_manifest(self._database, sha256):
            self._store.put_bytes(manifest_key(sha256), body)
        packs = sorted({each.pack for each in found.values()})
        if not index.record_manifest(self._database, sha256, len(manifest.files), manifest.bytes, packs):
            raise _incomplete()
        return ManifestRecorded(sha256=sha256, files=len(manifest.files), bytes=manifest.bytes)

    def workdir(self, run_id: str) -> WorkdirAnswer:
        """The manifest that the run's parameters name, and its packs."""
        try:
            sha256 = index.manifest_of_run(self._database, run_id)
        except LookupError:
            raise ProblemError(404, "run_not_found", f"there is no run {run_id[:200]!r}") from None
        if sha256 is None or not is_sha256(sha256):
            raise ProblemError(404, "no_workdir", f"run {run_id[:200]!r} has no uploaded workdir")
        if not index.use_manifest(self._database, sha256):
            raise _gone(sha256)
        return self._answer(sha256)

    def _answer(self, sha256: str) -> WorkdirAnswer:
        try:
            encoded = self._store.read(manifest_key(sha256), MANIFEST_LIMIT_BYTES)
        except ObjectMissingError:
            raise _gone(sha256) from None
        sizes = decode(encoded).hashes()
        found = index.locate(self._database, list(sizes))
        if found.keys() != sizes.keys():
            raise _gone(sha256)
        places: dict[str, list[PackPlace]] = {}
        for each in found.values():
            place = PackPlace(sha256=each.sha256, offset=each.offset, bytes=each.bytes)
            places.setdefault(each.pack, []).append(place)
        bytes_of = index.pack_sizes(self._database, list(places))
        packs = [
            PackRef(
                sha256=pack,
                bytes=bytes_of[pack],
                url=self._store.presign_get(pack_key(pack), URL_SECONDS),
                files=sorted(files, key=lambda place: place.offset),
            )
            for pack, files in sorted(places.items())
        ]
        return WorkdirAnswer(sha256=sha256, manifest=encoded.decode(), packs=packs)

    def data_folder(self, key: str) -> WorkdirAnswer:
        """The manifest and the packs of a data set that is a folder."""
        found = index.data_set(self._database, key)
        if found is None or found.manifest is None:
            raise ProblemError(404, "object_missing", f"there is no data set {key[:200]!r}: pod-worker data list")
        if not index.use_manifest(self._database, found.manifest):
            raise _gone(found.manifest)
        return self._answer(found.manifest)

    def put_data(self, body: DataSetRequest) -> DataSetView:
        """Gives a pack of one file, or a recorded manifest, a key under `data/`."""
        _check_hashes([body.sha256])
        try:
            check_filename(body.name)
        except InvalidNameError as error:
            raise ProblemError(422, "bad_key", str(error)) from None
        name = _UNSAFE.sub("_", body.name.rpartition("/")[2])
        key = data_key(name, body.sha256, body.is_folder)
        if not self._is_recorded(body, key, name):
            raise ProblemError(409, "content_missing", "the content is not stored: upload it, then name it again")
        found = index.data_set(self._database, key)
        if found is None or body.sha256 not in (found.pack, found.manifest):
            raise ProblemError(409, "key_taken", f"{key} has other content: use another name")
        return data_set_view(found)

    def _is_recorded(self, body: DataSetRequest, key: str, name: str) -> bool:
        if body.is_folder:
            return index.record_data_folder(self._database, key, name, body.sha256)
        size = index.pack_sizes(self._database, [body.sha256]).get(body.sha256)
        return size is not None and index.record_data_set(self._database, key, name, body.sha256, size)

    def list_data(self) -> list[DataSetView]:
        return [data_set_view(each) for each in index.data_sets(self._database)]


def data_set_view(found: DataSet) -> DataSetView:
    created = rfc3339(found.created_at) if found.created_at else None
    return DataSetView(
        key=found.key,
        name=found.name,
        bytes=found.bytes,
        sha256=found.pack or found.manifest or "",
        files=found.files,
        created_at=created,
    )


def _check_hashes(hashes: list[str], limit: int = HASHES_LIMIT + 1) -> None:
    if len(hashes) > limit:
        raise ProblemError(422, "bad_request", f"more than {limit - 1} hashes: ask in several requests")
    if not all(map(is_sha256, hashes)):
        raise ProblemError(422, "bad_request", "a hash must be 64 lower-case hexadecimal digits")


def _incomplete() -> ProblemError:
    return ProblemError(409, "content_missing", "not all files of the manifest are stored: ask what is missing")


def _gone(sha256: str) -> ProblemError:
    return ProblemError(404, "workdir_gone", f"the files of {sha256[:16]} are no longer stored: upload them again")
