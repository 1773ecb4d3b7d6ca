"""A real S3 server on a folder: `rclone serve s3`, loopback only.

Keys are made once and kept beside the data.

The secret travels in the environment of the child, never in its arguments. Not for data that matters beyond this
machine: uploads in progress and metadata live in the server's memory.

How it differs from MinIO and AWS, as measured with rclone 1.75 and minio-py 7.2:

- Errors with a body are `text/xml`, which minio-py raises as InvalidResponseError with the S3 code in its text,
  not as S3Error; only `stat_object` of a missing key gives S3Error NoSuchKey.
- Presigned URLs sign the host alone and every `x-amz-*` header must be signed: a PUT with `x-amz-checksum-*` or
  `x-amz-meta-*` is 403. A checksum as a query parameter is ignored. `Content-MD5` is obeyed (400 BadDigest).
- An expired URL is 400 AccessDenied (AWS: 403), an unsigned GET 400. HEAD with a URL presigned for GET is 403.
- A range GET answers 200 with Content-Range, not 206. A PUT without Content-Length is 411. `If-None-Match: *` is
  ignored: the object is overwritten, atomically.
- The ETag of an object is its MD5, computed at the first HEAD or list after a start (about 1.5 s per GB), then
  remembered. Completing a multipart upload answers the usual `md5-N`, later HEADs the MD5 of the whole.
- Multipart: parts of any size, in any order (buffered when early, 256 MB per upload), numbers without gaps; a part
  may be sent again only with the same bytes (else 501); ListParts works. Completing twice is 404 NoSuchUpload, and
  a restart forgets uploads in progress: 404 NoSuchUpload, start again.
- Content-Type and metadata are forgotten by a restart, the type is then guessed from the name;
  `response-content-type` and `response-content-disposition` of a presigned GET work.
- Keys are paths: `a` and `a/b` cannot both exist (500), `.` and `..` segments and `//` are refused.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import urllib3
from minio import Minio
from minio.error import InvalidResponseError, MinioException
from urllib3.exceptions import HTTPError

from pod_worker.local.binaries import find_rclone
from pod_worker.local.errors import LocalStackError
from pod_worker.local.folder_lock import FolderLock, write_private
from pod_worker.local.process import LOOPBACK, ChildProcess, start_listening

START_SECONDS = 30.0
STOP_SECONDS = 10.0
DEFAULT_BUCKET = "ai-scientist"
LEFTOVER_PREFIX = ".rclone_temp_"


@dataclass(frozen=True)
class S3Access:
    """Where an S3 server is and how to sign for it.

    `endpoint` is host:port, as the minio client wants it.
    """

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    bucket: str = DEFAULT_BUCKET
    secure: bool = False

    @property
    def url(self) -> str:
        return f"{'https' if self.secure else 'http'}://{self.endpoint}"


def parse_endpoint(endpoint: str) -> tuple[str, bool]:
    """`host:port` and whether it speaks TLS, from MINIO_ENDPOINT.

    The setting may have a scheme or not.
    """
    scheme, separator, rest = endpoint.partition("://")
    return (rest.rstrip("/"), scheme == "https") if separator else (endpoint.rstrip("/"), False)


class ObjectStoreServer:
    """`rclone serve s3` on `data_dir/objects`; a context manager.

    One folder per bucket.
    """

    def __init__(
        self,
        data_dir: Path,
        port: int = 0,
        access_key: str | None = None,
        secret_key: str | None = None,
        bucket: str = DEFAULT_BUCKET,
        *,
        binary: Path | None = None,
    ) -> None:
        """A server on `data_dir`.

        Without keys, those in `data_dir/keys.json` are used, made at the first start. Keys: ≥ 8
        characters.
        """
        if bool(access_key) != bool(secret_key):
            raise LocalStackError("Give both the S3 access key and the secret key, or neither.")
        self.data_dir = data_dir
        self.objects_dir = data_dir / "objects"
        self.port = port
        self._given_keys = (access_key, secret_key) if access_key and secret_key else None
        self._keys: tuple[str, str] | None = None
        self._bucket = bucket
        self._binary = binary
        self._lock = FolderLock(data_dir)
        self._process: ChildProcess | None = None

    @property
    def keys_file(self) -> Path:
        return self.data_dir / "keys.json"

    @property
    def access(self) -> S3Access:
        if self._keys is None:
            raise LocalStackError("The S3 server was not started.")
        return S3Access(f"{LOOPBACK}:{self.port}", *self._keys, bucket=self._bucket)

    @property
    def process(self) -> ChildProcess:
        if self._process is None:
            raise LocalStackError("The S3 server was not started.")
        return self._process

    def start(self, timeout_seconds: float = START_SECONDS, stop: threading.Event | None = None) -> None:
        """Start and wait until it answers.

        Raises FolderInUseError, BinaryMissingError, ChildDiedError, NotReadyError, StopRequestedError.
        """
        binary = self._binary or find_rclone()
        self._lock.acquire()
        try:
            self._keys = self._given_keys or _kept_keys(self.keys_file)
            (self.objects_dir / self._bucket).mkdir(parents=True, exist_ok=True)
            _remove_leftovers(self.objects_dir)
            self._process, self.port = start_listening(
                partial(self._describe, binary), self._answers, self.port, timeout_seconds, stop
            )
        except BaseException:
            self.kill()
            raise

    def stop(self, grace_seconds: float = STOP_SECONDS) -> None:
        if self._process is not None:
            self._process.stop(grace_seconds)
        self._lock.release()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
        self._lock.release()

    def __enter__(self) -> ObjectStoreServer:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _describe(self, binary: Path, port: int) -> ChildProcess:
        argv = [str(binary), "serve", "s3", str(self.objects_dir), "--addr", f"{LOOPBACK}:{port}"]
        argv += ["--config", os.devnull, "--cache-dir", str(self.data_dir / "cache"), "--log-level", "NOTICE"]
        access = self.access
        env = {"PATH": os.defpath, "HOME": str(self.data_dir)}
        env["RCLONE_AUTH_KEY"] = f'"{access.access_key},{access.secret_key}"'
        return ChildProcess("rclone serve s3", argv, self.data_dir / "s3.log", env=env, keep_fds=(self._lock.fd,))

    def _answers(self, process: ChildProcess, port: int) -> bool:
        """Whether the server on the port accepts our signature.

        A stranger's would not.
        """
        access = replace(self.access, endpoint=f"{LOOPBACK}:{port}")
        try:
            with connect(access, timeout_seconds=2.0) as client:
                return bool(client.bucket_exists(access.bucket))
        except (HTTPError, MinioException):
            return False


@contextmanager
def connect(access: S3Access, timeout_seconds: float = 10.0) -> Iterator[Minio]:
    """A minio client without retries, whose connections are closed at the end."""
    http = urllib3.PoolManager(retries=False, timeout=timeout_seconds)
    try:
        yield Minio(access.endpoint, access.access_key, access.secret_key, secure=access.secure, http_client=http)
    finally:
        http.clear()


def require_bucket(access: S3Access) -> None:
    """Make sure the bucket of a given server exists.

    Raises LocalStackError when the server refuses.
    """
    try:
        with connect(access) as client:
            if not _has_bucket(client, access.bucket):
                client.make_bucket(access.bucket)
    except (HTTPError, MinioException, ValueError) as error:
        raise LocalStackError(
            f"The S3 server {access.url} does not give us the bucket {access.bucket}: {error}. Fix: correct "
            "MINIO_ENDPOINT, MINIO_ACCESS_KEY, MINIO_SECRET_KEY and MINIO_BUCKET, or unset MINIO_ENDPOINT to "
            "start a local server."
        ) from error


def _has_bucket(client: Minio, bucket: str) -> bool:
    try:
        return bool(client.bucket_exists(bucket))
    except InvalidResponseError as error:  # how minio-py reads the NoSuchBucket of an rclone elsewhere
        if "NoSuchBucket" in str(error):
            return False
        raise


def _kept_keys(path: Path) -> tuple[str, str]:
    """The keys in `path`, made and stored there (0600) when there are none."""
    try:
        stored = json.loads(path.read_text())
        return str(stored["access_key"]), str(stored["secret_key"])
    except FileNotFoundError:
        keys = f"local-{secrets.token_hex(6)}", secrets.token_urlsafe(32)
    except (ValueError, KeyError, TypeError) as error:
        raise LocalStackError(f"{path} is not readable as S3 keys. Fix: delete it; new keys are made.") from error
    write_private(path, json.dumps({"access_key": keys[0], "secret_key": keys[1]}))
    return keys


def _remove_leftovers(objects_dir: Path) -> None:
    """Halves of uploads that a killed server left: safe to delete.

    They were never acknowledged and are hidden from listings.
    """
    for leftover in objects_dir.rglob(f"{LEFTOVER_PREFIX}*"):
        leftover.unlink(missing_ok=True)
