"""The bucket through our adapter, against the real server."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from pod_worker.artifacts.object_store import (
    InvalidPartsError,
    ObjectMissingError,
    ObjectStore,
    ObjectStoreError,
    StoredObject,
    UploadGoneError,
)
from pod_worker.artifacts.wire import StoredPart

KEY = "runs/r/1/a b/ünï&?.txt"


def _put(url: str, body: bytes) -> str:
    answer = requests.put(url, data=body, timeout=10)
    assert answer.status_code == 200, answer.text
    return answer.headers["ETag"].strip('"')


def test_a_bucket_is_made_once(s3: Any) -> None:
    store = ObjectStore(s3.endpoint, s3.access_key, s3.secret_key, s3.bucket + "-new")
    store.ensure_bucket()
    store.ensure_bucket()
    assert store.list("") == []


def test_buckets_made_by_several_processes_at_once_are_fine(s3: Any) -> None:
    store = ObjectStore(s3.endpoint, s3.access_key, s3.secret_key, s3.bucket)
    store._client.bucket_exists = lambda name: False  # the moment between looking and making
    store.ensure_bucket()


def test_an_object_goes_in_by_url_and_comes_out_by_url(store: ObjectStore) -> None:
    _put(store.presign_put(KEY, 60), b"hello")
    found = store.stat(KEY)
    assert found == StoredObject(KEY, 5, hashlib.md5(b"hello").hexdigest(), found.modified if found else None)
    assert store.sha256(KEY).sha256 == hashlib.sha256(b"hello").hexdigest()
    assert [item.key for item in store.list("runs/r/")] == [KEY]
    answer = requests.get(store.presign_get(KEY, 60, attachment='ü "x".txt'), timeout=10)
    assert answer.content == b"hello"
    disposition = "attachment; filename=\"_ _x_.txt\"; filename*=UTF-8''%C3%BC%20%22x%22.txt"
    assert answer.headers["Content-Disposition"] == disposition
    store.delete(KEY)
    store.delete(KEY)
    assert store.stat(KEY) is None
    with pytest.raises(ObjectMissingError):
        store.sha256(KEY)


def test_parts_become_one_object(store: ObjectStore) -> None:
    upload = store.create_multipart(KEY, "text/plain")
    etags = [_put(store.presign_part(KEY, upload, number, 60), b"%d" % number * 10) for number in (1, 2, 3)]
    stored = store.list_parts(KEY, upload)
    assert [(part.number, part.etag, part.bytes) for part in stored] == [
        (1, etags[0], 10),
        (2, etags[1], 10),
        (3, etags[2], 10),
    ]
    assert store.list_parts(KEY, upload, limit=1) == stored[:1]
    assert store.stat(KEY) is None
    store.complete_multipart(KEY, upload, list(reversed(stored)))
    assert store.sha256(KEY).bytes == 30
    with pytest.raises(UploadGoneError):
        store.complete_multipart(KEY, upload, stored)
    with pytest.raises(UploadGoneError):
        store.list_parts(KEY, upload)


def test_wrong_parts_are_named_and_an_abort_can_be_repeated(store: ObjectStore) -> None:
    upload = store.create_multipart(KEY, "text/plain")
    with pytest.raises(InvalidPartsError):
        store.complete_multipart(KEY, upload, [StoredPart(number=1, etag="0" * 32)])
    other = store.create_multipart(KEY, "text/plain")
    store.abort(KEY, other)
    store.abort(KEY, other)
    with pytest.raises(UploadGoneError):
        store.list_parts(KEY, other)


def test_put_uploads_from_this_process(store: ObjectStore, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    store.put("runs/r/1/x", path, "text/plain")
    assert store.sha256("runs/r/1/x").bytes == 3


@pytest.mark.parametrize("change", [{"secret_key": "wrong-secret"}, {"access_key": "wrong-access"}])
def test_wrong_keys_are_named_without_showing_them(s3: Any, change: dict[str, str]) -> None:
    known = {"access_key": s3.access_key, "secret_key": s3.secret_key} | change
    store = ObjectStore(s3.endpoint, bucket=s3.bucket, **known)
    with pytest.raises(ObjectStoreError, match="MINIO_ACCESS_KEY") as raised:
        store.sha256("runs/r/1/x")
    assert known["secret_key"] not in str(raised.value)


def test_a_store_that_is_down_is_named_quickly() -> None:
    store = ObjectStore("127.0.0.1:1", "access-key", "secret-key", "bucket")
    began = time.monotonic()
    with pytest.raises(ObjectStoreError, match=r"127\.0\.0\.1:1.*MINIO_ENDPOINT"):
        store.stat("runs/r/1/x")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("endpoint", ["ftp://x", "http://", "http://host/path", "http://user:pw@host", ""])
def test_an_endpoint_that_is_none_is_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match="MINIO_ENDPOINT"):
        ObjectStore(endpoint, "access-key", "secret-key", "bucket")


@pytest.mark.parametrize(
    ("endpoint", "start"),
    [
        ("s3.example.com", "https://s3.example.com/"),
        ("http://minio:9000", "http://minio:9000/"),
        ("localhost:9000", "http://localhost:9000/"),
        ("https://localhost:9000", "https://localhost:9000/"),
    ],
)
def test_only_a_loopback_store_is_spoken_to_in_the_clear_by_default(endpoint: str, start: str) -> None:
    assert ObjectStore(endpoint, "access-key", "secret-key", "bucket").presign_get("k", 60).startswith(start)


def test_a_public_endpoint_is_what_urls_are_signed_for(s3: Any) -> None:
    store = ObjectStore(
        s3.endpoint, s3.access_key, s3.secret_key, s3.bucket, public_endpoint="https://files.example.com"
    )
    assert store.presign_put("k", 60).startswith(f"https://files.example.com/{s3.bucket}/k?")
    assert store.list("") == []


def test_it_is_safe_to_share_between_threads(store: ObjectStore) -> None:
    found: list[int] = []
    _put(store.presign_put(KEY, 60), b"x" * 100_000)
    threads = [threading.Thread(target=lambda: found.append(store.sha256(KEY).bytes)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [100_000] * 8
