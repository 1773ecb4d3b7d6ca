"""Finalize of a pack: read it back, compare every hash, copy it, record it.

The client is never believed. Two uploads of the same pack in one moment are copied one after the other, because
`rclone serve s3` shows a copy while it is being written. Other packs do not wait for them.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from pod_worker.artifacts.object_store import ObjectChangedError, ObjectMissingError, ObjectStore, StoredObject
from pod_worker.content.wire import OBJECT_LIMIT_BYTES, PackFile, PackFinalized, PackFinalizeRequest, pack_key
from pod_worker.control.web.problem import ProblemError
from pod_worker.store import content_index as index
from pod_worker.store.content_index import PlacedFile
from pod_worker.store.mongo import Mongo

UPLOAD_KEY = "uploads/{}/content"  # the sweep of uploads deletes what no finalize took
_UPLOAD = re.compile(r"uploads/[0-9A-HJKMNP-TV-Z]{26}/content")


def manifest_key(sha256: str) -> str:
    return f"content/manifests/{sha256}"


class KeyedThreadLocks:
    """One lock for each key that is in use, for threads."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._users: Counter[str] = Counter()

    @contextmanager
    def hold(self, key: str) -> Iterator[None]:
        with self._guard:
            self._users[key] += 1
            lock = self._locks.setdefault(key, threading.Lock())
        try:
            with lock:
                yield
        finally:
            with self._guard:
                self._users[key] -= 1
                if not self._users[key]:
                    del self._users[key], self._locks[key]


class PackVerifier:
    def __init__(self, database: Mongo, store: ObjectStore) -> None:
        self._database = database
        self._store = store
        self._publishing = KeyedThreadLocks()

    def finalize(self, body: PackFinalizeRequest) -> PackFinalized:
        """Raises ProblemError 404, 409, 422 or 503, ObjectStoreError."""
        if not _UPLOAD.fullmatch(body.key):
            raise ProblemError(422, "bad_key", f"{body.key[:200]!r} is not the key of an upload")
        total = sum(each.bytes for each in body.files)
        if any(each.bytes < 0 for each in body.files) or total != body.bytes or total > OBJECT_LIMIT_BYTES:
            raise ProblemError(422, "bad_request", "the sizes of the files do not add up to the pack's")
        found = self._store.stat(body.key)
        if found is None:
            if index.is_pack(self._database, body.sha256):  # a finalize whose answer was lost
                return PackFinalized(sha256=body.sha256)
            raise ProblemError(404, "object_missing", f"there is no object {body.key}: upload it again")
        if found.bytes != body.bytes or not self._is_as_announced(body):
            self._store.delete(body.key)
            raise ProblemError(422, "mismatch", "the pack is not what was announced. It is not recorded")
        self._publish(found, body)
        self._store.delete(body.key)
        return PackFinalized(sha256=body.sha256)

    def _is_as_announced(self, body: PackFinalizeRequest) -> bool:
        whole = hashlib.sha256()
        part, left = hashlib.sha256(), 0
        files: Iterator[PackFile] = iter(body.files)
        wanted: str | None = None
        for block in self._store.stream(body.key, body.bytes):
            whole.update(block)
            view = memoryview(block)
            while view:
                if left == 0:
                    if wanted is not None and part.hexdigest() != wanted:
                        return False
                    entry = next((each for each in files if each.bytes), None)
                    if entry is None:
                        return False
                    part, left, wanted = hashlib.sha256(), entry.bytes, entry.sha256
                part.update(view[:left])
                taken = min(left, len(view))
                view, left = view[taken:], left - taken
        empty = hashlib.sha256().hexdigest()
        is_last_right = left == 0 and (wanted is None or part.hexdigest() == wanted)
        are_empty_right = all(each.bytes or each.sha256 == empty for each in body.files)
        return is_last_right and are_empty_right and whole.hexdigest() == body.sha256

    def _publish(self, found: StoredObject, body: PackFinalizeRequest) -> None:
        places, offset = [], 0
        for each in body.files:
            places.append(PlacedFile(each.sha256, body.sha256, offset, each.bytes))
            offset += each.bytes
        with self._publishing.hold(body.sha256):
            if not index.is_pack(self._database, body.sha256):
                try:
                    self._store.copy(found, pack_key(body.sha256))
                except (ObjectChangedError, ObjectMissingError) as error:
                    raise ProblemError(422, "mismatch", f"{error}: upload it again") from None
            if not index.record_pack(self._database, body.sha256, body.bytes, places):
                raise ProblemError(
                    503, "key_doomed", "the pack is being deleted: finalize again", headers={"Retry-After": "1"}
                )
