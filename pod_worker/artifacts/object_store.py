"""The bucket, through the `minio` client: presigned URLs, and reading back.

Works against MinIO, S3 and `rclone serve s3`. minio's multipart calls are private; they are used here and
nowhere else. This module knows neither runs nor fences, and puts no key and no signed URL into an error.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlsplit

import certifi
import urllib3
from minio import Minio
from minio.commonconfig import ENABLED, CopySource, Filter
from minio.datatypes import Part
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from minio.lifecycleconfig import AbortIncompleteMultipartUpload, Expiration, LifecycleConfig, Rule

from pod_worker.artifacts.wire import StoredPart

T = TypeVar("T")

READ_BYTES = 1024 * 1024
_LOOPBACK = ("localhost", "127.", "[::1]")
_CODE = re.compile(r"<Code>([^<]{1,100})</Code>")
_MISSING = {"NoSuchKey", "NoSuchBucket", "NotFound"}
_CHANGED = {"PreconditionFailed", "HTTP 412"}
_BAD_PARTS = {"InvalidPart", "InvalidPartOrder", "EntityTooSmall", "MalformedXML"}
_REFUSED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed"}


class ObjectStoreError(Exception):
    """The store did not carry out a request; repeating it may help."""


class ObjectMissingError(ObjectStoreError):
    """There is no such object."""


class ObjectChangedError(ObjectStoreError):
    """The object is not the one that was looked at before."""


class UploadGoneError(ObjectStoreError):
    """The store no longer knows this multipart upload: completed, aborted or expired."""


class InvalidPartsError(ObjectStoreError):
    """The parts named are not the parts the store has."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    key: str
    bytes: int
    etag: str
    modified: datetime | None = None


@dataclass(frozen=True, slots=True)
class Digest:
    bytes: int
    sha256: str


class ObjectStore:
    """One bucket. Thread-safe.

    `public_endpoint` is how pods and browsers reach the store when that differs from how this process does; a
    presigned URL is bound to its host.
    """

    def __init__(
        self,
        endpoint: str,
        access_key: str,
        secret_key: str,
        bucket: str,
        region: str = "us-east-1",
        public_endpoint: str | None = None,
    ) -> None:
        self.bucket = bucket
        self.endpoint = endpoint
        self._client = _client(endpoint, access_key, secret_key, region)
        self._signer = (
            _client(public_endpoint, access_key, secret_key, region) if public_endpoint else self._client
        )

    def ensure_bucket(self) -> None:
        def make() -> None:
            if not self._client.bucket_exists(self.bucket):
                try:
                    self._client.make_bucket(self.bucket)
                except MinioException as error:
                    if not _code(error).startswith("BucketAlready"):
                        raise

        self._asked(make)

    def presign_put(self, key: str, seconds: int) -> str:
        return str(self._signer.presigned_put_object(self.bucket, key, timedelta(seconds=seconds)))

    def presign_get(self, key: str, seconds: int, attachment: str | None = None) -> str:
        headers = {"response-content-disposition": _disposition(attachment)} if attachment else None
        return str(
            self._signer.presigned_get_object(
                self.bucket, key, timedelta(seconds=seconds), response_headers=headers
            )
        )

    def presign_part(self, key: str, upload_id: str, number: int, seconds: int) -> str:
        query = {"uploadId": upload_id, "partNumber": str(number)}
        return str(
            self._signer.get_presigned_url(
                "PUT", self.bucket, key, timedelta(seconds=seconds), extra_query_params=query
            )
        )

    def create_multipart(self, key: str, content_type: str) -> str:
        headers = {"Content-Type": content_type}
        return str(self._asked(lambda: self._client._create_multipart_upload(self.bucket, key, headers)))

    def list_parts(self, key: str, upload_id: str, limit: int = 10_000) -> list[StoredPart]:
        """The first `limit` parts that the store has of an upload, in order.

        Raises UploadGoneError.
        """
        found: list[StoredPart] = []
        marker: str | None = None
        while True:
            page = self._asked(
                lambda after=marker: self._client._list_parts(  # type: ignore[misc]
                    self.bucket, key, upload_id, max_parts=min(limit, 1000), part_number_marker=after
                )
            )
            found += [
                StoredPart(number=part.part_number, etag=part.etag.strip('"'), bytes=part.size)
                for part in page.parts
            ]
            if not page.is_truncated or not page.parts or len(found) >= limit:
                return found
            marker = str(page.next_part_number_marker or found[-1].number)

    def complete_multipart(self, key: str, upload_id: str, parts: list[StoredPart]) -> None:
        """Raises UploadGoneError, InvalidPartsError."""
        ordered = [Part(part.number, part.etag.strip('"')) for part in sorted(parts, key=lambda part: part.number)]
        self._asked(lambda: self._client._complete_multipart_upload(self.bucket, key, upload_id, ordered))

    def abort(self, key: str, upload_id: str) -> None:
        """Discard an upload and its parts. A missing one is no error."""
        try:
            self._asked(lambda: self._client._abort_multipart_upload(self.bucket, key, upload_id))
        except UploadGoneError:
            pass

    def stat(self, key: str) -> StoredObject | None:
        try:
            found = self._asked(lambda: self._client.stat_object(self.bucket, key))
        except ObjectMissingError:
            return None
        return StoredObject(key, int(found.size or 0), str(found.etag or ""), found.last_modified)

    def sha256(self, key: str) -> Digest:
        """Read the whole object back in constant memory. Raises ObjectMissingError."""
        return self._asked(lambda: self._digest(key))

    def _digest(self, key: str) -> Digest:
        response = self._client.get_object(self.bucket, key)
        hasher, size = hashlib.sha256(), 0
        try:
            for block in response.stream(READ_BYTES):
                hasher.update(block)
                size += len(block)
        finally:
            response.close()
            response.release_conn()
        return Digest(size, hasher.hexdigest())

    def read(self, key: str, limit_bytes: int) -> bytes:
        """A whole small object.

        Raises ObjectMissingError; ObjectStoreError when it is larger.
        """
        found = b"".join(self.stream(key, limit_bytes))
        if len(found) > limit_bytes:
            raise ObjectStoreError(f"an object has more than {limit_bytes} bytes")
        return found

    def stream(self, key: str, limit_bytes: int) -> Iterator[bytes]:
        """The blocks of an object, at most one block past the limit.

        Raises ObjectMissingError.
        """
        response = self._asked(lambda: self._client.get_object(self.bucket, key))
        read = 0
        try:
            blocks = response.stream(READ_BYTES)
            while read <= limit_bytes and (block := self._asked(lambda: next(blocks, b""))):
                read += len(block)
                yield block
        finally:
            response.close()
            response.release_conn()

    def copy(self, source: StoredObject, target: str) -> None:
        """Copy within the store.

        Raises ObjectMissingError; ObjectChangedError when `source` was written since.

        S3 and MinIO check the etag themselves. `rclone serve s3` ignores the condition, so the copy is compared.
        """
        condition = CopySource(self.bucket, source.key, match_etag=source.etag)
        self._asked(lambda: self._client.copy_object(self.bucket, target, condition))
        made = self.stat(target)
        is_same = made is not None and made.bytes == source.bytes
        # The etag of an object that was uploaded in parts depends on the parts, and the copy has none.
        if made is not None and "-" not in source.etag + made.etag:
            is_same = is_same and made.etag == source.etag
        if not is_same:
            raise ObjectChangedError("the object was written while it was copied")

    def expire_uploads(self, prefix: str, days: int) -> bool:
        """Have the store delete what lies below `prefix` after so many days.

        This concerns objects and unfinished uploads.

        Leaves a bucket alone that has lifecycle rules already. False where the store has no such rules.
        """
        rule = Rule(
            ENABLED,
            rule_filter=Filter(prefix=prefix),
            rule_id="pod-worker-uploads",
            expiration=Expiration(days=days),
            abort_incomplete_multipart_upload=AbortIncompleteMultipartUpload(days_after_initiation=days),
        )
        try:
            found = self._asked(lambda: self._client.get_bucket_lifecycle(self.bucket))
            if found is None or not found.rules:
                self._asked(lambda: self._client.set_bucket_lifecycle(self.bucket, LifecycleConfig([rule])))
        except (ObjectStoreError, ValueError):
            return False
        return True

    def put(self, key: str, path: Path, content_type: str = "application/octet-stream") -> None:
        """Upload from this process. Pods cannot: they have no credentials of the store."""
        self._asked(lambda: self._client.fput_object(self.bucket, key, str(path), content_type))

    def put_bytes(self, key: str, body: bytes) -> None:
        """Upload from this process' memory."""
        self._asked(lambda: self._client.put_object(self.bucket, key, io.BytesIO(body), len(body)))

    def delete(self, key: str) -> None:
        """Delete an object. A missing one is no error."""
        try:
            self._asked(lambda: self._client.remove_object(self.bucket, key))
        except ObjectMissingError:
            pass

    def list(self, prefix: str) -> list[StoredObject]:
        """Every object whose key begins with `prefix`."""
        found = self._asked(lambda: [*self._client.list_objects(self.bucket, prefix=prefix, recursive=True)])
        return [
            StoredObject(item.object_name, int(item.size or 0), str(item.etag or ""), item.last_modified)
            for item in found
        ]

    def _asked(self, ask: Callable[[], T]) -> T:
        """The one place where the client's errors become ours."""
        try:
            return ask()
        except MinioException as error:
            raise self._translated(error) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ObjectStoreError(
                f"cannot reach the object store at {_host(self.endpoint)} ({type(error).__name__}). "
                "Check that it is up and that MINIO_ENDPOINT is right"
            ) from None

    def _translated(self, error: MinioException) -> ObjectStoreError:
        code = _code(error)
        if code == "NoSuchUpload":
            return UploadGoneError("the store does not have this multipart upload")
        if code in _CHANGED:
            return ObjectChangedError("the object was written since it was looked at")
        if code in _MISSING:
            return ObjectMissingError(f"no such object in bucket {self.bucket}")
        if code in _BAD_PARTS:
            return InvalidPartsError(f"the store refused the list of parts ({code})")
        fix = (
            "Check MINIO_ACCESS_KEY, MINIO_SECRET_KEY, the bucket's policy and this machine's clock"
            if code in _REFUSED
            else "It may be overloaded or restarting"
        )
        return ObjectStoreError(f"the object store at {_host(self.endpoint)} answered {code}. {fix}")


def _client(endpoint: str, access_key: str, secret_key: str, region: str) -> Minio:
    secure, host = _address(endpoint)
    http = urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=5, read=60),
        maxsize=16,
        cert_reqs="CERT_REQUIRED",
        ca_certs=certifi.where(),
        retries=urllib3.Retry(total=2, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504]),
    )
    return Minio(host, access_key, secret_key, secure=secure, region=region, http_client=http)


def _address(endpoint: str) -> tuple[bool, str]:
    """(is https, host[:port]).

    Without a scheme, only a loopback address gets plain HTTP.
    """
    text = endpoint if "://" in endpoint else f"{_default_scheme(endpoint)}://{endpoint}"
    url = urlsplit(text)
    if url.scheme not in ("http", "https") or not url.netloc or url.path.strip("/") or "@" in url.netloc:
        raise ValueError(
            "MINIO_ENDPOINT must be a host, host:port or http(s)://host[:port] without a path or login"
        )
    return url.scheme == "https", url.netloc


def _default_scheme(endpoint: str) -> str:
    return "http" if endpoint.startswith(_LOOPBACK) else "https"


def _host(endpoint: str) -> str:
    return endpoint.partition("://")[2] or endpoint


def _code(error: MinioException) -> str:
    # rclone answers errors as text/xml, which minio does not parse: the code is in the body it hands over.
    if isinstance(error, S3Error):
        return str(error.code)
    if isinstance(error, InvalidResponseError):
        found = _CODE.search(error._body or "")
        return found.group(1) if found else f"HTTP {error._code}"
    if isinstance(error, ServerError):
        return f"HTTP {error.status_code}"
    return type(error).__name__


def _disposition(filename: str) -> str:
    # RFC 6266: a plain form for old readers and the exact one in UTF-8.
    plain = re.sub(r'[^\x20-\x7e]|["\\%]', "_", filename)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"
